"""Selective prediction: the error among what a detector accepts, over the share that it accepts.

Samples are accepted from the lowest score up. AURC is the mean risk over all coverages i / N (Geifman & El-Yaniv 2017),
E-AURC its excess over the best order, all right predictions first (Geifman et al. 2019). Where scores are equal the
risk is the expectation over all orders of the tied samples, so that nothing depends on how the data lay.
"""

# N samples, n of them ID, m OOD

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.curves import paired_values
from ssl_sat.ood.score import BadScores, Scores

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Risk at each coverage 1/N ... 1, and the areas."""

    coverage_N: Array
    risk_N: Array
    aurc: float
    e_aurc: float

    def risk_at(self, coverage: float) -> float:
        """Risk when at least this share is accepted."""
        return float(self.risk_N[max(0, int(np.ceil(coverage * len(self.risk_N) - 1e-9)) - 1)])


def risk_coverage(scores: Scores, wrong_N: NDArray[np.bool_]) -> RiskCoverage:
    """The curve of samples of which it is known whether the prediction was wrong; BadScores without any."""
    wrong_N = np.asarray(wrong_N)
    if wrong_N.dtype != bool or wrong_N.shape != scores.values.shape:
        raise ValueError(f"{len(scores)} scores need as many booleans, not {wrong_N.dtype} of shape {wrong_N.shape}")
    if len(scores) == 0:
        raise BadScores(f"there are no scores of '{scores.detector}' for a risk-coverage curve")
    _, tied_N = np.unique(scores.values, return_inverse=True)
    share_T = np.bincount(tied_N, weights=wrong_N) / np.bincount(tied_N)
    errors_N = np.cumsum(share_T[np.sort(tied_N)])
    counts_N = np.arange(1, len(wrong_N) + 1)
    best_N = np.maximum(counts_N - int((~wrong_N).sum()), 0)
    aurc = float((errors_N / counts_N).mean())
    return RiskCoverage(counts_N / len(wrong_N), errors_N / counts_N, aurc, aurc - float((best_N / counts_N).mean()))


def risk_coverage_with_ood(id_scores: Scores, ood_scores: Scores, id_wrong_n: NDArray[np.bool_]) -> RiskCoverage:
    """The curve over ID and OOD samples together: to accept an OOD sample is an error, whatever was predicted."""
    id_n, ood_m = paired_values(id_scores, ood_scores)
    both = Scores(id_scores.detector, np.concatenate([id_n, ood_m]))
    return risk_coverage(both, np.concatenate([np.asarray(id_wrong_n), np.ones(len(ood_m), dtype=bool)]))
