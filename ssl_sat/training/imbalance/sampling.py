"""Which patches an epoch shows, as a function of (seed, epoch) alone: no state, the same in every process.

Legend: M rows to learn from, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.data.splits import seeded_order
from ssl_sat.seeding import key
from ssl_sat.spec import ConfigError, UserError, suggest
from ssl_sat.training.imbalance.balance import Balance, Labels
from ssl_sat.training.imbalance.spec import CappedNegativesSpec, SamplerSpec
from ssl_sat.training.task import Task

Rows = NDArray[np.int64]


def inverse_frequency(spec: SamplerSpec, *, labels: Labels, task: Task, seed: int) -> Balance:
    """Draw with replacement, rare classes as often as frequent ones."""
    share_M = chances(labels.labels, labels.counts(task), spec.power)
    upper_M = np.cumsum(share_M)

    def draw(epoch: int) -> Rows:
        generator = _generator(seed, "sampler", epoch)
        at_M = np.searchsorted(upper_M, generator.random(len(upper_M)) * upper_M[-1], side="right")
        return labels.rows_M[np.minimum(at_M, len(upper_M) - 1)]

    return Balance(labels.rows_M, draw=draw, repeats=True)


def chances(labels: NDArray[Any], counts_K: NDArray[Any], power: float) -> NDArray[np.float64]:
    """Probability of every patch (M,), which sums to 1; with several labels by the rarest, as the commonest with none.

    labels: (M,) class numbers or (M, K) of 0 and 1.
    """
    by_class_K = counts_K.astype(np.float64) ** -power
    if labels.ndim == 1:
        chance_M = by_class_K[labels]
    else:
        chance_M = np.where(labels > 0.5, by_class_K, by_class_K.min()).max(axis=1)
    return chance_M / chance_M.sum()


def capped_negatives(spec: CappedNegativesSpec, *, labels: Labels, task: Task, seed: int) -> Balance:
    """Keep every other patch and at most `ratio` times as many negatives."""
    negative_M = _negatives(spec, labels, task)
    others = labels.rows_M[~negative_M]
    if not len(others):
        raise UserError("imbalance=capped_negatives: all training patches are negatives; there is nothing to learn")
    negatives = labels.rows_M[negative_M]
    most = max(1, round(spec.ratio * len(others)))
    if len(negatives) <= most:
        return Balance(labels.rows_M)
    if not spec.redraw:
        row_of = {labels.ids[row]: row for row in negatives}
        kept = [row_of[name] for name in seeded_order(row_of, seed)][:most]
        return Balance(np.sort(np.concatenate([others, np.array(kept, np.int64)])))

    def draw(epoch: int) -> Rows:
        generator = _generator(seed, "capped-negatives", epoch)
        rows = np.concatenate([others, negatives[generator.permutation(len(negatives))[:most]]])
        return rows[generator.permutation(len(rows))]

    return Balance(labels.rows_M, draw=draw)


def _negatives(spec: CappedNegativesSpec, labels: Labels, task: Task) -> NDArray[np.bool_]:
    """Which rows are negatives (M,)."""
    if spec.negative is not None and spec.negative not in task.classes:
        known = ", ".join(task.classes)
        raise ConfigError(
            f"imbalance.negative: no class '{spec.negative}'{suggest(spec.negative, task.classes)}; there are {known}"
        )
    number = None if spec.negative is None else task.classes.index(spec.negative)
    if task.is_multilabel:
        held_MK = labels.labels > 0.5
        alone_M = held_MK.sum(axis=1) == (0 if number is None else 1)
        return alone_M if number is None else alone_M & held_MK[:, number]
    if number is None:
        number = int(np.bincount(labels.labels, minlength=len(task.classes)).argmax())
    return labels.labels == number


def _generator(seed: int, purpose: str, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, epoch)))
