"""Detectors against one another on the same samples: paired DeLong, and Holm's correction for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ssl_sat.ood.delong import Interval, Pair, components, difference_over_seeds, smallest_difference


@dataclass(frozen=True)
class Comparison:
    """AUROC of `first` less that of `second`; `p_holm` holds for all comparisons made together.

    `smallest` is the true difference that these samples and seeds show with probability 80 % at the 5 % level, for this
    comparison alone; None where no sample differs from another.
    """

    first: str
    second: str
    difference: Interval
    p: float
    p_holm: float
    smallest: float | None


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979), in the order given: the k-th smallest of n times n - k + 1, made monotone, <= 1.

    Raises ValueError for a p value outside [0, 1].
    """
    p_n = np.asarray(p_values, dtype=np.float64)
    if not ((p_n >= 0) & (p_n <= 1)).all():
        raise ValueError(f"p values lie between 0 and 1: {p_values}")
    order_n = np.argsort(p_n, kind="stable")
    raised_n = np.maximum.accumulate(p_n[order_n] * np.arange(len(p_n), 0, -1))
    adjusted_n = np.empty_like(p_n)
    adjusted_n[order_n] = np.minimum(raised_n, 1.0)
    return adjusted_n.tolist()


def compare(
    scores: Mapping[str, Pair | Sequence[Pair]], against: str | None = None, level: float = 0.95
) -> list[Comparison]:
    """All pairs of detectors, or all against one, with p values adjusted for their number.

    A detector's scores are a pair (ID, OOD), or one such pair a seed; seeds and samples must correspond.
    """
    found = {name: [components(*pair) for pair in _by_seed(value)] for name, value in scores.items()}
    pairs = [(name, against) for name in found if name != against] if against else list(combinations(found, 2))
    tested = [difference_over_seeds(found[a], found[b], level) for a, b in pairs]
    adjusted = holm([p for _, p in tested])
    return [
        Comparison(a, b, difference, p, p_holm, smallest_difference(difference.se, level))
        for (a, b), (difference, p), p_holm in zip(pairs, tested, adjusted, strict=True)
    ]


def _by_seed(value: Pair | Sequence[Pair]) -> Sequence[Pair]:
    return value if isinstance(value[0], tuple) else [value]  # type: ignore[return-value, list-item]
