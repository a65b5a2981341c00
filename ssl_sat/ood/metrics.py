"""How well scores tell out-of-distribution samples from in-distribution ones. Exact with ties; `Scores` only.

Positives are the OOD samples unless a name says otherwise. scikit-learn is the oracle of the tests. Beside these:
`delong` (intervals and differences of AUROC), `comparisons` (many detectors), `bootstrap` (clusters and seeds),
`selective` (risk-coverage), `sanity` (a check without any OOD sample).
"""

# n ID samples, m OOD samples

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.curves import Counts, Ranked, paired_values
from ssl_sat.ood.delong import (
    Interval,
    delong,
    delong_difference,
    delong_over_seeds,
    exact_area,
    smallest_difference,
)
from ssl_sat.ood.score import Scores

__all__ = [
    "OF_COUNTS",
    "SUSPECT_ORIENTATION",
    "Interval",
    "aupr_in",
    "aupr_out",
    "auroc",
    "delong",
    "delong_difference",
    "delong_over_seeds",
    "detection_error",
    "fpr_id_at_95tpr_ood",
    "fpr_ood_at_95tpr_id",
    "ood_metrics",
    "orientation",
    "precision_recall_curve",
    "roc_curve",
    "smallest_difference",
]

Array = NDArray[np.float64]
SUSPECT_ORIENTATION = "SUSPECT_ORIENTATION"
OF_COUNTS: dict[str, Callable[[Counts], float]] = {
    "auroc": lambda counts: counts.area(),
    "aupr_out": lambda counts: counts.average_precision(),
    "aupr_in": lambda counts: counts.turned().average_precision(),
    "fpr_id_at_95tpr_ood": lambda counts: counts.fpr_at_tpr(0.95),
    "fpr_ood_at_95tpr_id": lambda counts: counts.turned().fpr_at_tpr(0.95),
    "detection_error": lambda counts: counts.detection_error(),
}


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """P(ood > id) + P(equal) / 2, from exact counts."""
    return exact_area(*paired_values(id_scores, ood_scores))


def aupr_out(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision (step-wise, no interpolation) with OOD as the positive class."""
    return OF_COUNTS["aupr_out"](Ranked(id_scores, ood_scores).counts())


def aupr_in(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision with ID as the positive class, and the scores read downwards."""
    return OF_COUNTS["aupr_in"](Ranked(id_scores, ood_scores).counts())


def fpr_id_at_95tpr_ood(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of ID samples flagged at the highest threshold that flags at least 95 % of the OOD samples."""
    return OF_COUNTS["fpr_id_at_95tpr_ood"](Ranked(id_scores, ood_scores).counts())


def fpr_ood_at_95tpr_id(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of OOD samples accepted at the lowest threshold that accepts at least 95 % of the ID samples."""
    return OF_COUNTS["fpr_ood_at_95tpr_id"](Ranked(id_scores, ood_scores).counts())


def detection_error(id_scores: Scores, ood_scores: Scores) -> float:
    """Smallest mean of the two error rates over all thresholds, ID and OOD weighted alike."""
    return OF_COUNTS["detection_error"](Ranked(id_scores, ood_scores).counts())


def roc_curve(id_scores: Scores, ood_scores: Scores) -> tuple[Array, Array]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    counts = Ranked(id_scores, ood_scores).counts()
    return np.append(0.0, counts.false_T / counts.negatives), np.append(0.0, counts.true_T / counts.positives)


def precision_recall_curve(id_scores: Scores, ood_scores: Scores) -> tuple[Array, Array]:
    """Recall and precision at every threshold from high to low, OOD as the positive class; recall ends at 1."""
    counts = Ranked(id_scores, ood_scores).counts()
    return counts.true_T / counts.positives, counts.true_T / (counts.true_T + counts.false_T)


def orientation(id_scores: Scores, ood_scores: Scores) -> str:
    """'SUSPECT_ORIENTATION' when AUROC + 3 SE < 0.5, else 'ok'. Nothing is ever turned round by itself."""
    return _orientation(delong(id_scores, ood_scores))


def _orientation(area: Interval) -> str:
    return SUSPECT_ORIENTATION if area.value + 3 * area.se < 0.5 else "ok"


def ood_metrics(id_scores: Scores, ood_scores: Scores) -> dict[str, Any]:
    """All of the above as a flat, JSON-ready dict."""
    area = delong(id_scores, ood_scores)
    counts = Ranked(id_scores, ood_scores).counts()
    return {
        "n_id": len(id_scores),
        "n_ood": len(ood_scores),
        **{name: metric(counts) for name, metric in OF_COUNTS.items()},
        "auroc": area.value,
        "auroc_se": area.se,
        "auroc_low": area.low,
        "auroc_high": area.high,
        "orientation": _orientation(area),
    }
