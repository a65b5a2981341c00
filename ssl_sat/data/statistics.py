"""Per-band statistics, gathered while records stream by, in float64.

Integer data: a full histogram per band, so that mean, deviation and percentiles are exact and do not depend on the
order of the patches. Float data: sums in float64, percentiles from evenly spaced pixels of every patch; these depend on
the order in which parts are merged (in the last bits), which is that of the pack.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_SAMPLED_VALUES = 2_000_000  # per band, float data only

State = dict[str, np.ndarray]  # what `state` gives and `merge` takes


class BandHistograms:
    """Counts of every value of each band; `add` takes (N, C, H, W) or (C, H, W) arrays of the dtype given."""

    def __init__(self, names: tuple[str, ...], dtype: str, patches: int) -> None:
        self.names = names
        self.integer = dtype != "float32"
        self._counts = np.zeros((len(names), 256 if dtype == "uint8" else 65536 if self.integer else 0), np.int64)
        self._patches = max(patches, 1)
        self._pieces: list[list[np.ndarray]] = [[] for _ in names]
        self._sums = np.zeros((len(names), 5))  # count, sum, sum of squares, min, max
        self._sums[:, 3], self._sums[:, 4] = math.inf, -math.inf

    def add(self, pixels_NCHW: np.ndarray, first_band: int) -> None:
        """Count the pixels; channel 0 is band number `first_band`."""
        for channel in range(pixels_NCHW.shape[1]):
            values = pixels_NCHW[:, channel].reshape(len(pixels_NCHW), -1)
            if self.integer:
                counts = np.bincount(values.ravel(), minlength=self._counts.shape[1])
                self._counts[first_band + channel] += counts
            else:
                self._add_floats(values.astype(np.float64), first_band + channel)

    def _add_floats(self, values_NP: np.ndarray, band: int) -> None:
        row = self._sums[band]
        row[:3] += values_NP.size, values_NP.sum(), np.square(values_NP).sum()
        row[3], row[4] = min(row[3], values_NP.min()), max(row[4], values_NP.max())
        keep = min(values_NP.shape[1], max(1, _SAMPLED_VALUES // self._patches))
        at = np.linspace(0, values_NP.shape[1] - 1, keep).astype(int)
        self._pieces[band].append(values_NP[:, at].astype(np.float32).ravel())

    def state(self) -> State:
        """All that was counted, small enough to be stored for every part of a pack."""
        if self.integer:
            at = np.flatnonzero(self._counts)
            return {"at": at.astype(np.uint32), "counts": self._counts.ravel()[at]}
        pieces = [np.concatenate(some) if some else np.empty(0, np.float32) for some in self._pieces]
        sizes = np.array([len(piece) for piece in pieces], np.int64)
        return {"sums": self._sums, "sizes": sizes, "sample": np.concatenate(pieces)}

    def state_bytes(self, patches: int) -> int:
        """About the size of the state of so many patches; digital numbers are taken to spread over some 8,000."""
        values = (
            min(self._counts.shape[1], 8192) * 12
            if self.integer
            else 4 * -(-_SAMPLED_VALUES // self._patches) * patches
        )
        return len(self.names) * values

    def merge(self, state: State) -> None:
        """Add what another one with the same bands and dtype has counted."""
        if self.integer:
            self._counts.reshape(-1)[state["at"]] += state["counts"]
            return
        sums = state["sums"]
        self._sums[:, :3] += sums[:, :3]
        self._sums[:, 3] = np.minimum(self._sums[:, 3], sums[:, 3])
        self._sums[:, 4] = np.maximum(self._sums[:, 4], sums[:, 4])
        for band, piece in enumerate(np.split(state["sample"], np.cumsum(state["sizes"])[:-1])):
            self._pieces[band].append(piece)

    def summary(self, scale: float, offset: float) -> dict[str, dict[str, Any]]:
        """{band: {mean, std, min, p01, p50, p99, max, count}} of (value - offset) / scale."""
        describe = self._exact if self.integer else self._sampled
        return {name: describe(band, scale, offset) for band, name in enumerate(self.names)}

    def _exact(self, band: int, scale: float, offset: float) -> dict[str, Any]:
        counts = self._counts[band]
        total, values = int(counts.sum()), np.arange(len(counts), dtype=np.float64)
        mean = float(counts @ values) / total
        deviation = math.sqrt(float(counts @ np.square(values - mean)) / total)
        cumulative, present = np.cumsum(counts), np.flatnonzero(counts)
        ranks = {"p01": 0.01, "p50": 0.5, "p99": 0.99}
        found = {name: float(np.searchsorted(cumulative, math.ceil(q * total))) for name, q in ranks.items()}
        found |= {"mean": mean, "min": float(present[0]), "max": float(present[-1])}
        return {name: (value - offset) / scale for name, value in found.items()} | {
            "std": deviation / scale,
            "count": total,
        }

    def _sampled(self, band: int, scale: float, offset: float) -> dict[str, Any]:
        count, total, squares, low, high = (float(value) for value in self._sums[band])
        mean = total / count
        sample = np.concatenate(self._pieces[band]).astype(np.float64)
        p01, p50, p99 = (float(q) for q in np.quantile(sample, (0.01, 0.5, 0.99), method="inverted_cdf"))
        found = {"mean": mean, "min": low, "p01": p01, "p50": p50, "p99": p99, "max": high}
        deviation = math.sqrt(max(squares / count - mean * mean, 0.0))
        return {name: (value - offset) / scale for name, value in found.items()} | {
            "std": deviation / scale,
            "count": int(count),
        }
