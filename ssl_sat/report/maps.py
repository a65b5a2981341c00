"""Maps of features of in- and out-of-distribution patches: chosen points, one layout, how far to trust each."""

# N patches, D features

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.evaluation.predict import Predictions
from ssl_sat.report.faithful import Faithfulness, among_others, faithfulness, same_group
from ssl_sat.report.projection import layouts
from ssl_sat.seeding import key

_SEVERAL = ";"


@dataclass(frozen=True, eq=False)
class Points:
    """N patches. parts: (pack, rows) of the in-distribution ones, then of the others, in the order of all else here.

    groups: (data set, class or None), a patch's own by number in `group_N`; labels: all its classes as text. said:
    what the model says. features_ND: the fine-tuned model's.
    """

    features_ND: NDArray[np.float32]
    ood_N: NDArray[np.bool_]
    group_N: NDArray[np.int64]
    groups: tuple[tuple[str, str | None], ...]
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    said: tuple[str, ...]
    right: tuple[bool | None, ...]
    names: tuple[str, str]  # of the in- and the out-of-distribution data set
    parts: tuple[tuple[Any, NDArray[np.int64]], ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes_N(self) -> NDArray[np.int64]:
        """The group of each patch, -1 where its class is not known or not one."""
        known = np.array([name is not None for _, name in self.groups])
        return np.where(known[self.group_N], self.group_N, -1)


@dataclass(frozen=True, eq=False)
class State:
    """Features (N, D) of all points at one moment."""

    name: str
    label: str
    features_ND: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Map:
    """Coordinates (N, 2) of a state, and what they kept of its neighbourhoods."""

    name: str
    label: str
    xy_N2: NDArray[np.float32]
    found: Faithfulness


def load_points(folder: Path, most: int, seed: int, packs: tuple[Path, Path]) -> Points:
    """Read the predictions of an ood_eval artifact; of more than `most` patches a seeded choice in proportion."""
    from ssl_sat.data.packed import Pack

    both = [Predictions.load(folder / f"predictions-{name}") for name in ("id", "ood")]
    total = sum(map(len, both))
    if total > most:
        both = [_choice(part, max(2, round(most * len(part) / total)), seed, n) for n, part in enumerate(both)]
    opened = [Pack.open(path) for path in packs]
    names = _names(both[0], both[1])
    classes = [_classes(pack, part.rows_N) for pack, part in zip(opened, both, strict=True)]
    own = [(names[n], _single(text)) for n in (0, 1) for text in classes[n]]
    groups = tuple(sorted(set(own), key=lambda group: (names.index(group[0]), group[1] is None, group[1] or "")))
    number = {group: at for at, group in enumerate(groups)}
    return Points(
        features_ND=np.concatenate([part.features_ND for part in both]),
        ood_N=np.arange(len(own)) >= len(both[0]),
        group_N=np.array([number[group] for group in own]),
        groups=groups,
        ids=(*both[0].ids, *both[1].ids),
        labels=(*classes[0], *classes[1]),
        said=tuple(_said(both[0]) + _said(both[1])),
        right=tuple(_right(both[0])) + (None,) * len(both[1]),
        names=names,
        parts=tuple((pack, np.asarray(part.rows_N)) for pack, part in zip(opened, both, strict=True)),
    )


def _choice(predictions: Predictions, count: int, seed: int, at: int) -> Predictions:
    part = predictions.dataset if at == 0 else f"{predictions.dataset}/ood"
    generator = np.random.Generator(np.random.Philox(key=key(seed, "map-points", part)))
    return predictions.take(np.sort(generator.permutation(len(predictions))[:count]))


def _names(inside: Predictions, outside: Predictions) -> tuple[str, str]:
    same = inside.dataset == outside.dataset
    return inside.dataset, f"{outside.dataset}, out of distribution" if same else outside.dataset


def _classes(pack: Any, rows_N: NDArray[np.int64]) -> list[str | None]:
    """The classes of each patch in its own data set, several joined by ';'."""
    held = pack.column("labels").take(np.asarray(rows_N)).to_pylist()
    return [_SEVERAL.join(pack.classes[int(k)] for k in numbers or ()) or None for numbers in held]


def _single(text: str | None) -> str | None:
    return None if text is None or _SEVERAL in text else text


def _said(predictions: Predictions) -> list[str]:
    logits_NK = np.asarray(predictions.logits_NK)
    if predictions.labels_N.ndim == 1:
        return [predictions.classes[k] for k in logits_NK.argmax(1)]
    return [
        _SEVERAL.join(name for name, on in zip(predictions.classes, row, strict=True) if on) for row in logits_NK > 0
    ]


def _right(predictions: Predictions) -> list[bool | None]:
    labels = predictions.labels_N
    if labels.ndim == 1:
        said = np.asarray(predictions.logits_NK).argmax(1)
        return [bool(a == b) if b >= 0 else None for a, b in zip(said, labels, strict=True)]
    return [bool(same) for same in ((np.asarray(predictions.logits_NK) > 0) == (labels > 0.5)).all(1)]


def tuned(points: Points) -> State:
    """The state of the stored features."""
    return State("finetuned", "after fine-tuning", points.features_ND)


def drawn(states: Sequence[State], spec: Any) -> list[Map]:
    """A map for each state, all in one layout."""
    found = layouts(
        [state.features_ND for state in states], seed=spec.seed, neighbours=spec.neighbours, min_dist=spec.min_dist,
        method=spec.method, layout=spec.layout,
    )  # fmt: skip
    return [
        Map(s.name, s.label, xy, faithfulness(s.features_ND, xy, neighbours=spec.neighbours))
        for s, xy in zip(states, found, strict=True)
    ]


def measure(points: Points, maps: Sequence[Map]) -> dict[str, Any]:
    """How far each map can be trusted; the same shares in the features and on the map, so that a map's own are seen.

    same_class: of the neighbours of a patch with one known class. id_among_ood: of the neighbours of OOD patches, how
    many are in-distribution. moved: median way of a patch from the map before, in shares of the map's width.
    """
    n_ood = int(points.ood_N.sum())
    metrics: dict[str, Any] = {
        "n_id": len(points) - n_ood,
        "n_ood": n_ood,
        "neighbours": maps[-1].found.neighbours,
        "states": ",".join(m.name for m in maps),
        "id_data": points.names[0],
        "ood_data": points.names[1],
        "trustworthiness": maps[-1].found.trustworthiness,
    }
    for at, m in enumerate(maps):
        found = m.found
        values: dict[str, float | None] = {
            "trustworthiness": found.trustworthiness, "continuity": found.continuity, "kept": found.kept,
            "kept_by_chance": found.neighbours / (len(points) - 1),
        }  # fmt: skip
        for where, near in (("features", found.near_Nk), ("map", found.beside_Nk)):
            values[f"same_class_{where}"] = same_group(points.classes_N, near)
            values[f"id_among_ood_{where}"] = among_others(points.ood_N, near)
        if at:
            width = float(np.ptp(m.xy_N2, axis=0).max())
            values["moved"] = float(np.median(np.linalg.norm(m.xy_N2 - maps[at - 1].xy_N2, axis=1))) / width
        metrics |= {f"{m.name}_{name}": value for name, value in values.items()}
    return metrics
