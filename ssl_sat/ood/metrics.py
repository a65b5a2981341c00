"""How well scores tell out-of-distribution samples from in-distribution ones. Exact with ties; `Scores` only.

Positives are the OOD samples unless a name says otherwise. scikit-learn is the oracle of the tests.
"""

# n ID samples, m OOD samples

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from ssl_sat.ood.score import Scores

Array = NDArray[np.float64]
SUSPECT_ORIENTATION = "SUSPECT_ORIENTATION"


@dataclass(frozen=True)
class Interval:
    """An estimate, its standard error, and the two ends of its confidence interval."""

    value: float
    se: float
    low: float
    high: float


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """P(ood > id) + P(equal) / 2, from exact counts."""
    id_n, ood_m = _values(id_scores, ood_scores)
    id_n = np.sort(id_n)
    below = int(np.searchsorted(id_n, ood_m, side="left").sum())
    below_or_equal = int(np.searchsorted(id_n, ood_m, side="right").sum())
    return (below + below_or_equal) / (2 * len(id_n) * len(ood_m))


def aupr_out(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision (step-wise, no interpolation) with OOD as the positive class."""
    id_n, ood_m = _values(id_scores, ood_scores)
    return _average_precision(positives=ood_m, negatives=id_n)


def aupr_in(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision with ID as the positive class, and the scores read downwards."""
    id_n, ood_m = _values(id_scores, ood_scores)
    return _average_precision(positives=-id_n, negatives=-ood_m)


def fpr_id_at_95tpr_ood(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of ID samples flagged at the highest threshold that flags at least 95 % of the OOD samples."""
    id_n, ood_m = _values(id_scores, ood_scores)
    return _fpr_at_tpr(positives=ood_m, negatives=id_n, tpr=0.95)


def fpr_ood_at_95tpr_id(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of OOD samples accepted at the lowest threshold that accepts at least 95 % of the ID samples."""
    id_n, ood_m = _values(id_scores, ood_scores)
    return _fpr_at_tpr(positives=-id_n, negatives=-ood_m, tpr=0.95)


def detection_error(id_scores: Scores, ood_scores: Scores) -> float:
    """Smallest mean of the two error rates over all thresholds, ID and OOD weighted alike."""
    id_n, ood_m = _values(id_scores, ood_scores)
    _, true_T, false_T = _counts(positives=ood_m, negatives=id_n)
    errors_T = 0.5 * (1 - true_T / len(ood_m) + false_T / len(id_n))
    return float(min(0.5, errors_T.min()))


def roc_curve(id_scores: Scores, ood_scores: Scores) -> tuple[Array, Array]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    id_n, ood_m = _values(id_scores, ood_scores)
    _, true_T, false_T = _counts(positives=ood_m, negatives=id_n)
    return np.append(0.0, false_T / len(id_n)), np.append(0.0, true_T / len(ood_m))


def delong(id_scores: Scores, ood_scores: Scores, level: float = 0.95) -> Interval:
    """AUROC with DeLong's standard error (Sun & Xu 2014, O(n log n)) and an interval on the logit scale.

    When the samples are perfectly apart the variance estimate is 0 and says nothing; the open end is then
    Clopper & Pearson's for min(n, m) comparisons out of min(n, m), which errs on the wide side.
    """
    auc, id_parts_n, ood_parts_m = _components(id_scores, ood_scores)
    se = float(np.sqrt(id_parts_n.var(ddof=1) / len(id_parts_n) + ood_parts_m.var(ddof=1) / len(ood_parts_m)))
    if auc in (0.0, 1.0):
        reach = ((1 - level) / 2) ** (1 / min(len(id_parts_n), len(ood_parts_m)))
        return Interval(auc, se, reach if auc == 1 else 0.0, 1.0 if auc == 1 else 1 - reach)
    centre, half = np.log(auc / (1 - auc)), norm.ppf(0.5 + level / 2) * se / (auc * (1 - auc))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (centre - half, centre + half))
    return Interval(auc, se, low, high)


def delong_difference(
    first: tuple[Scores, Scores], second: tuple[Scores, Scores], level: float = 0.95
) -> tuple[Interval, float]:
    """AUROC of `first` less that of `second` (each ID, OOD) on the same samples in the same order, and the p value.

    Raises ValueError when the sizes differ. With no variance at all p is 1.
    """
    auc_a, id_a_n, ood_a_m = _components(*first)
    auc_b, id_b_n, ood_b_m = _components(*second)
    if len(id_a_n) != len(id_b_n) or len(ood_a_m) != len(ood_b_m):
        raise ValueError("a paired difference needs both detectors on the same samples")
    id_n, ood_m = id_a_n - id_b_n, ood_a_m - ood_b_m
    se = float(np.sqrt(id_n.var(ddof=1) / len(id_n) + ood_m.var(ddof=1) / len(ood_m)))
    difference, half = auc_a - auc_b, norm.ppf(0.5 + level / 2) * se
    p_value = float(2 * norm.sf(abs(difference) / se)) if se > 0 else 1.0
    return Interval(difference, se, float(difference - half), float(difference + half)), p_value


def smallest_difference(se: float, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a comparison with this standard error shows with this power."""
    return float((norm.ppf(0.5 + level / 2) + norm.ppf(power)) * se)


def orientation(id_scores: Scores, ood_scores: Scores) -> str:
    """'SUSPECT_ORIENTATION' when AUROC + 3 SE < 0.5, else 'ok'. Nothing is ever turned round by itself."""
    found = delong(id_scores, ood_scores)
    return SUSPECT_ORIENTATION if found.value + 3 * found.se < 0.5 else "ok"


def ood_metrics(id_scores: Scores, ood_scores: Scores) -> dict[str, float | int | str]:
    """All of the above as a flat, JSON-ready dict."""
    area = delong(id_scores, ood_scores)
    return {
        "n_id": len(id_scores),
        "n_ood": len(ood_scores),
        "auroc": area.value,
        "auroc_se": area.se,
        "auroc_low": area.low,
        "auroc_high": area.high,
        "aupr_out": aupr_out(id_scores, ood_scores),
        "aupr_in": aupr_in(id_scores, ood_scores),
        "fpr_id_at_95tpr_ood": fpr_id_at_95tpr_ood(id_scores, ood_scores),
        "fpr_ood_at_95tpr_id": fpr_ood_at_95tpr_id(id_scores, ood_scores),
        "detection_error": detection_error(id_scores, ood_scores),
        "orientation": orientation(id_scores, ood_scores),
    }


def _values(id_scores: Scores, ood_scores: Scores) -> tuple[Array, Array]:
    for scores in (id_scores, ood_scores):
        if not isinstance(scores, Scores):
            raise TypeError(
                f"metrics take ssl_sat.ood.score.Scores, not {type(scores).__name__}: a bare array does not say"
                " whether higher means more out-of-distribution"
            )
        if len(scores) == 0:
            raise ValueError(f"there are no scores of '{scores.detector}'")
    if id_scores.detector != ood_scores.detector:
        raise ValueError(f"ID scores are of '{id_scores.detector}', OOD scores of '{ood_scores.detector}'")
    return id_scores.values, ood_scores.values


def _counts(positives: Array, negatives: Array) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Distinct thresholds from high to low, and how many positives and negatives reach each."""
    thresholds_T = np.unique(np.concatenate([positives, negatives]))[::-1]
    true_T = len(positives) - np.searchsorted(np.sort(positives), thresholds_T, side="left")
    false_T = len(negatives) - np.searchsorted(np.sort(negatives), thresholds_T, side="left")
    return thresholds_T, true_T, false_T


def _average_precision(positives: Array, negatives: Array) -> float:
    _, true_T, false_T = _counts(positives, negatives)
    gained_T = np.diff(true_T, prepend=0) / len(positives)
    return float((gained_T * true_T / (true_T + false_T)).sum())


def _fpr_at_tpr(positives: Array, negatives: Array, tpr: float) -> float:
    _, true_T, false_T = _counts(positives, negatives)
    needed = int(np.ceil(tpr * len(positives) - 1e-9))
    return float(false_T[np.searchsorted(true_T, needed, side="left")] / len(negatives))


def _components(id_scores: Scores, ood_scores: Scores) -> tuple[float, Array, Array]:
    """AUROC and its structural components: for each sample, its share of the other group that it is rightly beyond."""
    id_n, ood_m = _values(id_scores, ood_scores)
    n, m = len(id_n), len(ood_m)
    if min(n, m) < 2:
        raise ValueError(f"a variance needs at least 2 samples on each side, there are {n} ID and {m} OOD")
    ranks = rankdata(np.concatenate([id_n, ood_m]))
    ood_parts_m = (ranks[n:] - rankdata(ood_m)) / n
    id_parts_n = 1 - (ranks[:n] - rankdata(id_n)) / m
    return auroc(id_scores, ood_scores), id_parts_n, ood_parts_m
