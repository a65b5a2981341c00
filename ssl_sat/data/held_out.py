"""A pack without some of its classes: what a classifier is trained on that shall not know them (near-OOD).

One pack serves every held-out class: rows keep their numbers, so that sample ids and counter-based draws stay, while
`rows`, `labels`, `classes` and `stats` are those of the classes that are left.
"""

# N patches of the pack, K classes left

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from ssl_sat.data.packed import Manifest, Pack, Stats
from ssl_sat.data.statistics import BandHistograms
from ssl_sat.spec import ConfigError, UserError, suggest

_CHUNK = 512  # patches read at once for the statistics


def without_classes(pack: Pack, names: Sequence[str]) -> Pack:
    """Return the pack without these classes, itself where none is named.

    Raises UserError for a pack without one class a patch, and ConfigError for an unknown class or fewer than two left.
    """
    if not names:
        return pack
    if pack.manifest.label_kind != "single":
        kind = "no labels" if pack.manifest.label_kind == "none" else "several labels a patch"
        raise UserError(f"{pack.folder} has {kind}; held_out needs one class a patch, as in data=eurosat_rgb.")
    for name in names:
        if name not in pack.classes:
            raise ConfigError(
                f"held_out: no class '{name}' (there are: {', '.join(pack.classes)}){suggest(name, pack.classes)}"
            )
    kept = [name for name in pack.classes if name not in names]
    if len(kept) < 2:
        left = f"one class only ({kept[0]})" if kept else "no class"
        raise ConfigError(f"held_out={','.join(names)} leaves {left}; classification needs two.")
    return PackWithout(pack.folder, pack.manifest, tuple(names))


class PackWithout(Pack):
    """`rows(split)` leaves out the held-out patches; `held_out_rows(split)` gives them. Their label is -1."""

    def __init__(self, folder: Path, manifest: Manifest, held_out: tuple[str, ...]) -> None:
        kept = [name for name in manifest.classes if name not in held_out]
        super().__init__(folder, manifest.model_copy(update={"classes": kept}))
        self.whole, self.held_out = Pack(folder, manifest), held_out

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return PackWithout, (self.folder, self.whole.manifest, self.held_out)

    @cached_property
    @override
    def labels(self) -> np.ndarray:
        """int64 (N,): positions among the classes that are left, -1 for held-out patches."""
        number = {name: at for at, name in enumerate(self.classes)}
        table = np.array([*(number.get(name, -1) for name in self.whole.classes), -1], np.int64)
        return table[self.whole.labels]  # a label of -1 takes the last entry

    @override
    def rows(self, split: str) -> np.ndarray:
        rows = super().rows(split)
        return rows[~self._is_held_out[rows]]

    def held_out_rows(self, split: str | None) -> np.ndarray:
        """Rows of the held-out classes, int64, ascending; None takes every split."""
        rows = np.arange(len(self), dtype=np.int64) if split is None else super().rows(split)
        return rows[self._is_held_out[rows]]

    @cached_property
    def _is_held_out(self) -> np.ndarray:
        numbers = [self.whole.classes.index(name) for name in self.held_out]
        return np.isin(self.whole.labels, numbers)

    @cached_property
    @override
    def stats(self) -> Stats:
        """Statistics of the training patches that are left: the held-out class decides no normalisation either."""
        recorded, m = self.whole.stats, self.manifest
        rows = np.arange(len(self)) if recorded.split == "all" else super().rows(recorded.split)
        rows = rows[~self._is_held_out[rows]]
        histograms = BandHistograms(tuple(m.bands), m.dtype, len(rows))
        for first in range(0, len(rows), _CHUNK):
            at = 0
            for group in self.read(rows[first : first + _CHUNK]):
                histograms.add(group, at)
                at += group.shape[1]
        bands = histograms.summary(m.scale, m.offset)
        return Stats.model_validate({**recorded.model_dump(), "patches": len(rows), "bands": bands})
