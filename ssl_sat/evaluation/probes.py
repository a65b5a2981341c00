"""How good are frozen features? Nearest neighbours and a linear classifier, fitted on train, read on another split."""

# N samples, M training samples, D features, K classes

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.evaluation.classification import wilson_interval
from ssl_sat.evaluation.multilabel import mean_average_precisions
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.spec import ConfigError

_CELLS = 2**24  # similarities held at once


def knn_predict(
    train_MD: NDArray[np.floating[Any]], labels_M: NDArray[Any], test_ND: NDArray[np.floating[Any]], k: int = 20
) -> NDArray[np.int64]:
    """Majority of the k nearest training features by cosine; a tie goes to the class with the larger similarity."""
    if k > len(train_MD):
        raise ConfigError(f"knn.k={k} is more than the {len(train_MD)} training samples; lower it")
    bank_MD, query_ND = _unit(train_MD), _unit(test_ND)
    classes_K, numbers_M = np.unique(labels_M, return_inverse=True)
    step, found = max(1, _CELLS // len(bank_MD)), []
    for start in range(0, len(query_ND), step):
        cosine_NM = query_ND[start : start + step] @ bank_MD.T
        near_Nk = np.argpartition(-cosine_NM, k - 1, axis=1)[:, :k]
        weight_Nk = 1 + (np.take_along_axis(cosine_NM, near_Nk, axis=1) + 1) / (4 * k)  # the extras sum to at most 1/2
        votes_NK = np.stack([np.where(numbers_M[near_Nk] == c, weight_Nk, 0).sum(1) for c in range(len(classes_K))], 1)
        found.append(classes_K[votes_NK.argmax(axis=1)])
    return np.concatenate(found)


def linear_predict(
    train_MD: NDArray[np.floating[Any]], labels_M: NDArray[Any], test_ND: NDArray[np.floating[Any]], c: float = 1.0
) -> NDArray[np.int64]:
    """Multinomial logistic regression (L-BFGS, L2 penalty 1/(2C)) on features standardised by the training set."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    return model.fit(np.asarray(train_MD, dtype=np.float64), labels_M).predict(np.asarray(test_ND, dtype=np.float64))


def probe_metrics(train: Predictions, test: Predictions, k: int = 20) -> dict[str, float]:
    """Accuracy of both probes with Wilson intervals, or macro mAP where a patch has several labels.

    Raises ValueError if `train` is not a training split.
    """
    if train.split != "train":
        raise ValueError(f"probes are fitted on training predictions only, not on split '{train.split}'")
    if train.labels_N.ndim == 2:
        return _multilabel_metrics(train, test, k)
    train, test = (part.take(part.labels_N >= 0) for part in (train, test))
    metrics: dict[str, float] = {}
    for name, predicted_N in (
        ("knn", knn_predict(train.features_ND, train.labels_N, test.features_ND, k)),
        ("linear_probe", linear_predict(train.features_ND, train.labels_N, test.features_ND)),
    ):
        hits = int((predicted_N == test.labels_N).sum())
        low, high = wilson_interval(hits, len(test))
        metrics |= {f"{name}_accuracy": hits / len(test), f"{name}_accuracy_low": low, f"{name}_accuracy_high": high}
    return metrics


def _multilabel_metrics(train: Predictions, test: Predictions, k: int) -> dict[str, float]:
    truth_NK = test.labels_N > 0.5
    scores = {
        "knn": knn_shares(train.features_ND, train.labels_N, test.features_ND, k),
        "linear_probe": linear_scores(train.features_ND, train.labels_N > 0.5, test.features_ND),
    }
    return {
        f"{name}_map_macro": float(mean_average_precisions(score_NK, truth_NK)[0][0])
        for name, score_NK in scores.items()
    }


def knn_shares(
    train_MD: NDArray[np.floating[Any]], labels_MK: NDArray[Any], test_ND: NDArray[np.floating[Any]], k: int = 20
) -> NDArray[np.float64]:
    """Share (N, K) of each class among the k nearest training features, each weighted by 1 + its cosine."""
    bank_MD, query_ND = _unit(train_MD), _unit(test_ND)
    step, found = max(1, _CELLS // len(bank_MD)), []
    for start in range(0, len(query_ND), step):
        cosine_NM = query_ND[start : start + step] @ bank_MD.T
        near_Nk = np.argpartition(-cosine_NM, k - 1, axis=1)[:, :k]
        weight_Nk = 1 + np.take_along_axis(cosine_NM, near_Nk, axis=1)
        weight_Nk = weight_Nk / np.maximum(weight_Nk.sum(1, keepdims=True), 1e-12)
        found.append(np.einsum("nk,nkc->nc", weight_Nk, labels_MK[near_Nk].astype(np.float64)))
    return np.concatenate(found)


def linear_scores(
    train_MD: NDArray[np.floating[Any]], truth_MK: NDArray[np.bool_], test_ND: NDArray[np.floating[Any]], c: float = 1.0
) -> NDArray[np.float64]:
    """Decision values (N, K) of one logistic regression a class, on standardised features; 0 where all are alike."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(train_MD, dtype=np.float64))
    x_MD, x_ND = (scaler.transform(np.asarray(x, dtype=np.float64)) for x in (train_MD, test_ND))
    scores_NK = np.zeros((len(x_ND), truth_MK.shape[1]))
    for k in range(truth_MK.shape[1]):
        if 0 < truth_MK[:, k].sum() < len(truth_MK):
            scores_NK[:, k] = LogisticRegression(C=c, max_iter=1000).fit(x_MD, truth_MK[:, k]).decision_function(x_ND)
    return scores_NK


def _unit(x_ND: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    x_ND = np.asarray(x_ND, dtype=np.float64)
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
