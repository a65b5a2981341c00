"""What ROC, precision-recall and every metric at a threshold are read off: exact counts, with ties and with weights.

A sample of weight 2 counts as two equal samples; a bootstrap changes the weights and sorts nothing again.
"""

# n ID samples, m OOD samples, T distinct thresholds from high to low

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.score import BadScores, Scores

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Counts:
    """How many positives and negatives reach each threshold; the last threshold is reached by all."""

    true_T: NDArray[Any]
    false_T: NDArray[Any]

    @property
    def positives(self) -> float:
        """All positives."""
        return float(self.true_T[-1])

    @property
    def negatives(self) -> float:
        """All negatives."""
        return float(self.false_T[-1])

    def turned(self) -> Counts:
        """With ID as the positive class and the scores read downwards."""
        below_true_T = self.false_T[-1] - np.concatenate([[0], self.false_T[:-1]])
        below_false_T = self.true_T[-1] - np.concatenate([[0], self.true_T[:-1]])
        return Counts(below_true_T[::-1], below_false_T[::-1])

    def area(self) -> float:
        """P(positive > negative) + P(equal) / 2."""
        gained_T, before_T = np.diff(self.false_T, prepend=0), np.concatenate([[0], self.true_T[:-1]])
        return float((gained_T * (before_T + self.true_T)).sum() / (2 * self.positives * self.negatives))

    def average_precision(self) -> float:
        """Step-wise area under precision over recall, without interpolation."""
        reached_T = self.true_T + self.false_T
        gained_T = np.diff(self.true_T, prepend=0) / self.positives
        return float(
            (gained_T * np.divide(self.true_T, reached_T, out=np.zeros(len(reached_T)), where=reached_T > 0)).sum()
        )

    def fpr_at_tpr(self, tpr: float) -> float:
        """Share of negatives at the highest threshold that at least this share of the positives reaches."""
        needed = np.ceil(tpr * self.positives - 1e-9)
        return float(self.false_T[np.searchsorted(self.true_T, needed, side="left")] / self.negatives)

    def detection_error(self) -> float:
        """Smallest mean of the two error rates over all thresholds, both groups weighted alike."""
        errors_T = 0.5 * (1 - self.true_T / self.positives + self.false_T / self.negatives)
        return float(min(0.5, errors_T.min()))


class Ranked:
    """ID and OOD scores of one detector, sorted once. OOD samples are the positives."""

    def __init__(self, id_scores: Scores, ood_scores: Scores) -> None:
        id_n, ood_m = paired_values(id_scores, ood_scores)
        thresholds_T, at_N = np.unique(np.concatenate([id_n, ood_m]), return_inverse=True)
        self._size = len(thresholds_T)
        self._id_n, self._ood_m = np.split(self._size - 1 - at_N, [len(id_n)])
        self.thresholds_T = thresholds_T[::-1]

    def counts(self, id_weights_n: NDArray[Any] | None = None, ood_weights_m: NDArray[Any] | None = None) -> Counts:
        """Counts at all thresholds, each sample as often as its weight says (default: once)."""
        return Counts(
            np.cumsum(np.bincount(self._ood_m, weights=ood_weights_m, minlength=self._size)),
            np.cumsum(np.bincount(self._id_n, weights=id_weights_n, minlength=self._size)),
        )


def paired_values(id_scores: Scores, ood_scores: Scores) -> tuple[Array, Array]:
    """The values of two typed, non-empty scores of one detector; TypeError, BadScores or ValueError otherwise."""
    for scores, side in ((id_scores, "in-distribution"), (ood_scores, "out-of-distribution")):
        if not isinstance(scores, Scores):
            raise TypeError(
                f"metrics take ssl_sat.ood.score.Scores, not {type(scores).__name__}: a bare array does not say"
                " whether higher means more out-of-distribution"
            )
        if len(scores) == 0:
            raise BadScores(
                f"there are no scores of '{scores.detector}' for {side} samples; a comparison needs both kinds. Look"
                " at the rows and splits that were asked for."
            )
    if id_scores.detector != ood_scores.detector:
        raise ValueError(f"ID scores are of '{id_scores.detector}', OOD scores of '{ood_scores.detector}'")
    return id_scores.values, ood_scores.values
