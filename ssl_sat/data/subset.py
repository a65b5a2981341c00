"""A part of a pack's training split, for work with few labels: one pack serves all fractions.

# M rows asked for, K classes
A patch's place in the order is a hash of (seed, its id): it depends on neither the pack, its other patches nor the
platform. Every kind of subset takes patches from the front of that order, so that a smaller one of the same seed and
kind is contained in a larger.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from ssl_sat.data.splits import seeded_order
from ssl_sat.spec import Spec, UserError, later

if TYPE_CHECKING:
    import numpy as np

    from ssl_sat.data.packed import Pack


class SubsetSpec(Spec):
    """One of: `patches`, that many; `fraction` of every class, at least one; `per_class`, that many of each.

    imbalance_ratio: for experiments, alone or of what is left by one of these: the first class has so many times the
    patches of the last, those between fall exponentially, in the order of the classes' numbers (Cui et al. 2019,
    section 5.1). With several labels a patch `fraction` is of the patches, and `per_class` takes every patch that is
    among the first `per_class` of any of its classes: at least that many of each, and of frequent classes more.
    """

    patches: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0.0, le=1.0)
    per_class: int | None = Field(default=None, ge=1)
    imbalance_ratio: float | None = later(None, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        stated = [name for name in ("patches", "fraction", "per_class") if getattr(self, name) is not None]
        if len(stated) > 1 or not (stated or self.imbalance_ratio):
            held = f"{' and '.join(stated)} are set" if stated else "none is set"
            raise ValueError(f"exactly one of patches, fraction, per_class is needed; {held}")
        return self


def select(pack: Pack, rows_M: np.ndarray, spec: SubsetSpec | None) -> np.ndarray:
    """Return the rows of the subset among `rows_M`, int64, ascending; all of them for None.

    Raises UserError where there are too few: patches in all, of a class, or classes at all for `per_class`.
    """
    import numpy as np

    rows_M = np.sort(np.asarray(rows_M, np.int64))
    if spec is None:
        return rows_M
    row_of = dict(zip(pack.column("id").take(rows_M).to_pylist(), rows_M.tolist(), strict=True))
    ordered = np.array([row_of[name] for name in seeded_order(row_of, spec.seed)], np.int64)
    if spec.patches is not None:
        chosen = _first(pack, ordered, spec.patches)
    elif spec.fraction is not None:
        groups = _by_class(pack, ordered).values() if pack.manifest.label_kind == "single" else [ordered]
        chosen = np.concatenate([group[: max(1, round(len(group) * spec.fraction))] for group in groups])
    elif spec.per_class is not None:
        chosen = _per_class(pack, ordered, spec.per_class)
    else:
        chosen = ordered
    if spec.imbalance_ratio is not None:
        chosen = _imbalanced(pack, ordered[np.isin(ordered, chosen)], spec.imbalance_ratio)
    return np.unique(chosen)


def _imbalanced(pack: Pack, ordered: np.ndarray, ratio: float) -> np.ndarray:
    """As many patches as possible such that class k of K has ratio ** (-k / (K - 1)) times those of the first."""
    import numpy as np

    if pack.manifest.label_kind != "single" or len(pack.classes) < 2:
        raise UserError(f"{pack.folder}: subset.imbalance_ratio needs one label a patch, and two classes or more.")
    groups = list(_by_class(pack, ordered).values())
    profile_K = ratio ** -(np.arange(len(groups)) / (len(groups) - 1))
    first = min(len(rows) / share for rows, share in zip(groups, profile_K, strict=True))
    counts = [int(first * share + 1e-9) for share in profile_K]
    if min(counts) < 1:
        least = dict(zip(pack.classes, map(len, groups), strict=True))
        raise UserError(
            f"{pack.folder}: subset.imbalance_ratio={ratio:g} leaves a class without any patch; there are {least} to "
            "choose from. Ask for a smaller ratio or a larger subset."
        )
    return np.concatenate([rows[:count] for rows, count in zip(groups, counts, strict=True)])


def _first(pack: Pack, ordered: np.ndarray, count: int) -> np.ndarray:
    if count > len(ordered):
        raise UserError(
            f"{pack.folder}: subset.patches={count}, but there are only {len(ordered)} to choose from. Ask for fewer, "
            "or leave out the subset."
        )
    return ordered[:count]


def _per_class(pack: Pack, ordered: np.ndarray, count: int) -> np.ndarray:
    import numpy as np

    if pack.manifest.label_kind == "none":
        raise UserError(f"{pack.folder} has no labels: subset.per_class needs them. Set subset.patches or .fraction.")
    groups = _by_class(pack, ordered)
    few = {name: len(rows) for name, rows in groups.items() if len(rows) < count}
    if few:
        least = ", ".join(f"{name} ({there})" for name, there in Counter(few).most_common()[:-6:-1])
        raise UserError(
            f"{pack.folder}: subset.per_class={count}, but {len(few)} of {len(groups)} classes have fewer among the "
            f"{len(ordered)} patches to choose from: {least}{', ...' if len(few) > 5 else ''}. Ask for fewer, or set "
            "subset.fraction."
        )
    return np.concatenate([rows[:count] for rows in groups.values()])


def _by_class(pack: Pack, ordered: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of every class in their order; a patch with several labels stands in several."""
    labels = pack.labels[ordered]
    single = pack.manifest.label_kind == "single"
    return {
        name: ordered[labels == number if single else labels[:, number] > 0] for number, name in enumerate(pack.classes)
    }
