"""Metrics of classification from logits, as flat dicts ready for metrics.json. Float64; scikit-learn is the oracle."""

# N samples, K classes

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import norm

Array = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]


def wilson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); it stays inside [0, 1] and is right near 1."""
    if not 0 <= hits <= count or count == 0:
        raise ValueError(f"{hits} hits of {count} is no proportion")
    z, p = float(norm.ppf(0.5 + level / 2)), hits / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return 0.0 if hits == 0 else float(centre - half), 1.0 if hits == count else float(centre + half)


def newcombe_interval(hits: tuple[int, int], counts: tuple[int, int], level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference first - second of two independent proportions (Newcombe 1998, method 10)."""
    (low1, high1), (low2, high2) = (wilson_interval(h, n, level) for h, n in zip(hits, counts, strict=True))
    p1, p2 = (h / n for h, n in zip(hits, counts, strict=True))
    below, above = np.hypot(p1 - low1, high2 - p2), np.hypot(high1 - p1, p2 - low2)
    return float(p1 - p2 - below), float(p1 - p2 + above)


def confusion_matrix(labels_N: Labels, predicted_N: Labels, classes: int) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = predicted class."""
    return np.bincount(labels_N * classes + predicted_N, minlength=classes * classes).reshape(classes, classes)


def per_class(counts_KK: NDArray[np.int64]) -> dict[str, Array]:
    """Precision, recall, F1 and support of each class; a quotient 0/0 counts as 0."""
    hits_K = np.diag(counts_KK).astype(np.float64)
    support_K, predicted_K = counts_KK.sum(axis=1), counts_KK.sum(axis=0)
    return {
        "precision": _quotient(hits_K, predicted_K),
        "recall": _quotient(hits_K, support_K),
        "f1": _quotient(2 * hits_K, support_K + predicted_K),
        "support": support_K.astype(np.float64),
    }


def _quotient(top: Array, bottom: NDArray[Any]) -> Array:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def nll(logits_NK: NDArray[np.floating[Any]], labels_N: Labels) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(-_log_p(logits_NK)[np.arange(len(labels_N)), labels_N].mean())


def brier(logits_NK: NDArray[np.floating[Any]], labels_N: Labels) -> float:
    """Mean squared distance of the probabilities to the one-hot label, summed over classes: between 0 and 2."""
    p_NK = np.exp(_log_p(logits_NK))
    return float(((p_NK - np.eye(p_NK.shape[1])[labels_N]) ** 2).sum(axis=1).mean())


def ece(confidence_N: Array, correct_N: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error, bins of equal width; confidence 1.0 is in the last (Guo et al. 2017)."""
    at_N = np.minimum((confidence_N * bins).astype(np.int64), bins - 1)
    gaps_B = np.bincount(at_N, weights=correct_N - confidence_N, minlength=bins)
    return float(np.abs(gaps_B).sum() / len(confidence_N))


def adaptive_ece(confidence_N: Array, correct_N: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error, bins of equal count; samples of equal confidence share their mean correctness."""
    order_N = np.argsort(confidence_N, kind="stable")
    confidence_N, right_N = confidence_N[order_N], correct_N[order_N].astype(np.float64)
    _, tied_N = np.unique(confidence_N, return_inverse=True)
    right_N = (np.bincount(tied_N, weights=right_N) / np.bincount(tied_N))[tied_N]
    parts = np.array_split(right_N - confidence_N, min(bins, len(confidence_N)))
    return float(sum(abs(part.sum()) for part in parts) / len(confidence_N))


def aurc(uncertainty_N: Array, wrong_N: NDArray[np.bool_]) -> tuple[float, float]:
    """Area under the risk-coverage curve, and its excess over the best order (Geifman et al. 2019).

    Ties count by their expectation over permutations.
    """
    order_N = np.argsort(uncertainty_N, kind="stable")
    _, tied_N = np.unique(uncertainty_N[order_N], return_inverse=True)
    wrong_N = wrong_N[order_N].astype(np.float64)
    expected_N = (np.bincount(tied_N, weights=wrong_N) / np.bincount(tied_N))[tied_N]
    ranks_N = np.arange(1, len(wrong_N) + 1)
    area = float((np.cumsum(expected_N) / ranks_N).mean())
    best = float((np.cumsum(np.sort(wrong_N)) / ranks_N).mean())
    return area, area - best


def classification_metrics(
    logits_NK: NDArray[np.floating[Any]], labels_N: Labels, classes: Sequence[str]
) -> dict[str, float | int]:
    """All metrics of single-label classification, flat. Raises ValueError on a label outside 0 ... K-1."""
    logits_NK, labels_N = np.asarray(logits_NK, dtype=np.float64), np.asarray(labels_N)
    if len(labels_N) == 0 or labels_N.min() < 0 or labels_N.max() >= len(classes):
        raise ValueError(f"labels must be 0 ... {len(classes) - 1}, for at least one sample")
    p_NK = np.exp(_log_p(logits_NK))
    predicted_N, confidence_N = logits_NK.argmax(axis=1), p_NK.max(axis=1)
    correct_N = predicted_N == labels_N
    counts_KK = confusion_matrix(labels_N, predicted_N, len(classes))
    by_class = per_class(counts_KK)
    low, high = wilson_interval(int(correct_N.sum()), len(labels_N))
    risk, excess = aurc(-confidence_N, ~correct_N)
    return {
        "n": len(labels_N),
        "accuracy": float(correct_N.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": float(by_class["f1"][by_class["support"] > 0].mean()),
        "nll": nll(logits_NK, labels_N),
        "brier": brier(logits_NK, labels_N),
        "ece": ece(confidence_N, correct_N),
        "adaptive_ece": adaptive_ece(confidence_N, correct_N),
        "aurc": risk,
        "e_aurc": excess,
        **{f"recall/{name}": float(by_class["recall"][k]) for k, name in enumerate(classes)},
        **{f"f1/{name}": float(by_class["f1"][k]) for k, name in enumerate(classes)},
    }


def _log_p(logits_NK: NDArray[np.floating[Any]]) -> Array:
    return log_softmax(np.asarray(logits_NK, dtype=np.float64), axis=1)
