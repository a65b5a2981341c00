"""Metrics where a patch has any number of classes: average precision, F1, calibration of every class. No accuracy:

with 19 classes of which three are present, a network that names none of them is right about 84 % of the pairs.
"""  # fmt: skip

# N samples, K classes, P scores, B resamples, G groups of equal score

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from ssl_sat.evaluation.classification import adaptive_ece, ece

Array = NDArray[np.float64]
RESAMPLES = 200
LEAST = 30  # patches of which resamples are drawn: of fewer, most lack classes, and their means are of other classes
_CELLS = 2**22  # weights held at once


def average_precision(
    scores_P: NDArray[Any], truth_P: NDArray[np.bool_], weights_BN: Array | None = None, each: int = 1
) -> Array:
    """Average precision (B,) under each row of sample weights: sum over thresholds of (R_g - R_(g-1)) P_g.

    each: scores of one sample that stand one after the other, as in a raveled (N, K). The step-wise area without
    interpolation, equal scores sharing one threshold, as scikit-learn's; NaN where no weight is on a positive one.
    """
    order_P = np.argsort(-scores_P, kind="stable")
    ends_G = np.flatnonzero(np.append(np.diff(scores_P[order_P]) != 0, True))
    weights_BN = np.ones((1, len(scores_P) // each)) if weights_BN is None else weights_BN
    step = max(1, _CELLS // max(len(scores_P), 1))
    parts = (weights_BN[at : at + step] for at in range(0, len(weights_BN), step))
    return np.concatenate([_areas(part[:, order_P // each], truth_P[order_P], ends_G) for part in parts])


def _areas(sorted_BN: Array, truth_N: NDArray[np.bool_], ends_G: NDArray[Any]) -> Array:
    true_BG = np.cumsum(sorted_BN * truth_N, axis=1)[:, ends_G]
    said_BG = np.cumsum(sorted_BN, axis=1)[:, ends_G]
    precision_BG = np.divide(true_BG, said_BG, out=np.zeros_like(true_BG), where=said_BG > 0)
    total_B = true_BG[:, -1]
    area_B = (np.diff(true_BG, axis=1, prepend=0.0) * precision_BG).sum(axis=1)
    return np.divide(area_B, total_B, out=np.full_like(area_B, np.nan), where=total_B > 0)


def mean_average_precisions(
    logits_NK: Array, truth_NK: NDArray[np.bool_], weights_BN: Array | None = None
) -> tuple[Array, Array]:
    """(macro, micro), each (B,): the mean over the classes that have a positive sample, and that of all pairs."""
    classes = truth_NK.shape[1]
    by_class = [average_precision(logits_NK[:, k], truth_NK[:, k], weights_BN) for k in range(classes)]
    micro = average_precision(logits_NK.ravel(), truth_NK.ravel(), weights_BN, each=classes)
    return np.nanmean(np.stack(by_class), axis=0), micro


def resampled_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """How often each of `count` samples is drawn in each bootstrap resample (B, N) (Efron 1979)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def intervals(logits_NK: Array, truth_NK: NDArray[np.bool_], level: float = 0.95) -> dict[str, float]:
    """Percentile bootstrap intervals of both mean average precisions, over patches, seeded.

    Classes that a resample leaves without a positive sample do not count in that resample's macro mean.
    """
    macro_B, micro_B = mean_average_precisions(logits_NK, truth_NK, resampled_weights(len(truth_NK)))
    ends: dict[str, float] = {}
    for name, values_B in (("map_macro", macro_B), ("map_micro", micro_B)):
        low, high = np.nanquantile(values_B, [(1 - level) / 2, (1 + level) / 2])
        ends |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return ends


def f1_scores(said_NK: NDArray[np.bool_], truth_NK: NDArray[np.bool_]) -> dict[str, Array]:
    """Precision, recall, F1 and support (K,) of each class; a quotient 0/0 counts as 0."""
    both_K = (truth_NK & said_NK).sum(axis=0).astype(np.float64)
    said_K, true_K = said_NK.sum(axis=0).astype(np.float64), truth_NK.sum(axis=0).astype(np.float64)

    def quotient(top: Array, bottom: Array) -> Array:
        return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)

    return {
        "precision": quotient(both_K, said_K),
        "recall": quotient(both_K, true_K),
        "f1": quotient(2 * both_K, said_K + true_K),
        "support": true_K,
    }


def nll(logits_NK: NDArray[np.floating[Any]], labels_NK: NDArray[Any]) -> float:
    """Mean binary cross-entropy over all pairs of sample and class, in nats."""
    logits_NK, truth_NK = np.asarray(logits_NK, dtype=np.float64), np.asarray(labels_NK) > 0.5
    return float(-np.where(truth_NK, log_expit(logits_NK), log_expit(-logits_NK)).mean())


def multilabel_metrics(
    logits_NK: NDArray[np.floating[Any]], labels_NK: NDArray[Any], classes: Sequence[str], bootstrap: bool = True
) -> dict[str, float | int]:
    """All metrics of multi-label classification, flat; a class is predicted where its probability is above 1/2.

    map_macro and macro_f1 are means over the classes with a positive sample, `classes_present` of them; without any
    there is no average precision. bootstrap: intervals of both means, from `LEAST` samples on. brier is the mean
    squared error of a probability (0 to 1), ece and adaptive_ece are over all pairs of sample and class. Raises
    ValueError where no label is positive.
    """
    truth_NK: NDArray[np.bool_] = np.asarray(labels_NK) > 0.5
    exact_NK: Array = np.asarray(logits_NK, dtype=np.float64)
    if truth_NK.shape != (len(exact_NK), len(classes)) or not truth_NK.any():
        raise ValueError(f"labels of shape {truth_NK.shape} with a positive one for {len(classes)} classes are needed")
    present_K: NDArray[np.bool_] = np.asarray(truth_NK.any(axis=0))
    macro, micro = (float(value[0]) for value in mean_average_precisions(exact_NK, truth_NK))
    by_class = f1_scores(exact_NK > 0, truth_NK)
    ap_K = [average_precision(exact_NK[:, k], truth_NK[:, k])[0] for k in range(len(classes))]
    p = expit(exact_NK).ravel()
    found: dict[str, float | int] = {
        "n": len(truth_NK),
        "classes_present": int(present_K.sum()),
        "map_macro": macro,
        "map_micro": micro,
        "macro_f1": float(by_class["f1"][present_K].mean()),
        "micro_f1": _micro_f1(exact_NK > 0, truth_NK),
        **calibration_of(exact_NK, truth_NK, p),
    }
    found |= intervals(exact_NK, truth_NK) if bootstrap and len(truth_NK) >= LEAST else {}
    for k, name in enumerate(classes):
        if present_K[k]:
            found |= {f"ap/{name}": float(ap_K[k]), f"f1/{name}": float(by_class["f1"][k])}
    return found


def calibration_of(logits_NK: Array, truth_NK: NDArray[np.bool_], p: Array | None = None) -> dict[str, float]:
    """The metrics that a temperature changes."""
    p, true = expit(logits_NK).ravel() if p is None else p, truth_NK.ravel()
    return {
        "nll": nll(logits_NK, truth_NK),
        "brier": float(((p - true) ** 2).mean()),
        "ece": ece(p, true),
        "adaptive_ece": adaptive_ece(p, true),
    }


def _micro_f1(said_NK: NDArray[np.bool_], truth_NK: NDArray[np.bool_]) -> float:
    return float(2 * (said_NK & truth_NK).sum() / max(int(said_NK.sum() + truth_NK.sum()), 1))
