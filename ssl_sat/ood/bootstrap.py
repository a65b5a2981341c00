"""Intervals by resampling, for every metric: whole clusters (classes, tiles, scenes) are drawn, and seeds outside them.

Patches of one tile resemble one another; drawn one by one they make intervals too narrow. In each replicate seeds are
drawn with replacement, and for all of them the same clusters, since networks of several seeds see the same samples
(Field & Welsh 2007, 'Bootstrapping clustered data', the randomised cluster bootstrap). Nothing is sorted again: a draw
only changes how often a sample counts. Ends are percentiles; with fewer than about ten clusters they are too narrow.
"""

# n ID samples, m OOD samples, R replicates, S seeds

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.curves import Ranked
from ssl_sat.ood.delong import Interval, Pair
from ssl_sat.ood.metrics import OF_COUNTS
from ssl_sat.ood.score import BadScores
from ssl_sat.seeding import key


def bootstrap(
    pairs: Sequence[Pair],
    *,
    id_clusters_n: NDArray[Any] | None = None,
    ood_clusters_m: NDArray[Any] | None = None,
    metrics: Sequence[str] = tuple(OF_COUNTS),
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of metrics of one detector, by name as in `ood_metrics`.

    `pairs` holds (ID, OOD) scores, one pair a seed of the network, of the same samples in the same order; the value is
    the mean over them. `id_clusters_n` and `ood_clusters_m` name each sample's cluster (None: each stands for itself).
    Raises BadScores for a side of one cluster, ValueError for other lengths.
    """
    ranked = [Ranked(*pair) for pair in pairs]
    draws = [
        _Draws(len(pairs[0][0]), id_clusters_n, [len(pair[0]) for pair in pairs], "ID"),
        _Draws(len(pairs[0][1]), ood_clusters_m, [len(pair[1]) for pair in pairs], "OOD"),
    ]
    generator = np.random.Generator(np.random.Philox(key=key(seed, "ood-bootstrap")))
    found_RM = np.empty((replicates, len(metrics)))
    for r in range(replicates):
        id_weights_n, ood_weights_m = (side.weights(generator) for side in draws)
        chosen_S = generator.integers(0, len(ranked), len(ranked)) if len(ranked) > 1 else np.zeros(1, np.int64)
        counts = {s: ranked[s].counts(id_weights_n, ood_weights_m) for s in set(chosen_S.tolist())}
        values_SM = np.array([[OF_COUNTS[name](counts[s]) for name in metrics] for s in chosen_S.tolist()])
        found_RM[r] = values_SM.mean(axis=0)
    plain_SM = np.array([[OF_COUNTS[name](each.counts()) for name in metrics] for each in ranked])
    low_M, high_M = np.quantile(found_RM, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        name: Interval(
            float(plain_SM[:, k].mean()), float(found_RM[:, k].std(ddof=1)), float(low_M[k]), float(high_M[k])
        )
        for k, name in enumerate(metrics)
    }


class _Draws:
    """How often each sample counts when clusters are drawn with replacement."""

    def __init__(self, samples: int, clusters_n: NDArray[Any] | None, lengths: Sequence[int], side: str) -> None:
        if set(lengths) != {samples}:
            raise ValueError(f"seeds must score the same {side} samples; there are {lengths}")
        if clusters_n is not None and len(clusters_n) != samples:
            raise ValueError(f"{len(clusters_n)} clusters for {samples} {side} samples")
        self._at_n = np.arange(samples) if clusters_n is None else np.unique(clusters_n, return_inverse=True)[1]
        self._clusters = int(self._at_n.max()) + 1
        if self._clusters < 2:
            raise BadScores(
                f"all {samples} {side} samples are of one cluster, which says nothing of how clusters differ; give"
                " other clusters (tiles, scenes), or none to draw samples one by one"
            )

    def weights(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """One draw."""
        times_C = np.bincount(generator.integers(0, self._clusters, self._clusters), minlength=self._clusters)
        return times_C[self._at_n].astype(np.float64)
