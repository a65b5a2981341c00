"""Detectors against closed forms, scipy and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from scipy.stats import entropy
from sklearn.neighbors import NearestNeighbors

from ssl_sat.ood import DETECTORS
from ssl_sat.ood.score import Scores
from ssl_sat.spec import ConfigError, UserError


def predictions(split: str = "train", samples: int = 200, **changes: Any) -> Any:
    rng = np.random.default_rng(len(split))
    labels_N = rng.integers(0, 4, samples)
    features_ND = (rng.normal(size=(samples, 6)) + labels_N[:, None]).astype(np.float32)
    logits_NK = (features_ND[:, :4] * 3).astype(np.float32)
    base = {"features_ND": features_ND, "logits_NK": logits_NK, "labels_N": labels_N, "split": split, "mc": None}
    return SimpleNamespace(**{**base, **changes})


def scores(name: str, test: Any, train: Any = None, **settings: Any) -> np.ndarray:
    detector = DETECTORS.build(DETECTORS.parse({"name": name, **settings}))
    found = detector.fit(train if train is not None else predictions())(test)
    assert isinstance(found, Scores) and found.detector == name
    return found.values


def test_logit_scores_equal_their_definitions() -> None:
    test = predictions("test")
    p_NK = np.exp(test.logits_NK.astype(np.float64))
    p_NK /= p_NK.sum(1, keepdims=True)
    np.testing.assert_allclose(scores("msp", test), np.log(1 - p_NK.max(1)), rtol=1e-6)
    np.testing.assert_allclose(scores("entropy", test), entropy(p_NK, axis=1), rtol=1e-6)
    np.testing.assert_allclose(scores("max_logit", test), -test.logits_NK.max(1))
    logits_NK = test.logits_NK.astype(np.float64)
    np.testing.assert_allclose(scores("energy", test), -np.log(np.exp(logits_NK).sum(1)))
    np.testing.assert_allclose(
        scores("energy", test, temperature=2), -2 * np.log(np.exp(logits_NK / 2).sum(1)), rtol=1e-12
    )


def test_msp_keeps_the_order_where_the_softmax_is_one() -> None:
    gaps = np.array([50.0, 60.0, 200.0, 900.0])
    test = predictions("test", logits_NK=np.stack([gaps, np.zeros(4), np.zeros(4)], axis=1).astype(np.float32))
    np.testing.assert_allclose(scores("msp", test), np.log(2) - gaps, rtol=1e-12)
    assert (np.diff(scores("entropy", test)[:3]) < 0).all()


def test_mahalanobis_equals_scipy() -> None:
    train, test = predictions(), predictions("test", samples=20)
    means = [train.features_ND[train.labels_N == k].astype(np.float64).mean(0) for k in range(4)]
    residual = train.features_ND.astype(np.float64) - np.stack(means)[train.labels_N]
    covariance = residual.T @ residual / len(residual)
    inverse = np.linalg.inv(covariance + 0.01 * np.trace(covariance) / 6 * np.eye(6))
    expected = [min(scipy_mahalanobis(x, mean, inverse) ** 2 for mean in means) for x in test.features_ND]
    np.testing.assert_allclose(scores("mahalanobis", test, shrinkage=0.01), expected, rtol=1e-6)


def test_mahalanobis_does_not_depend_on_units_and_needs_a_covariance() -> None:
    train, test = predictions(), predictions("test")
    mix_DD = np.random.default_rng(0).normal(size=(6, 6))
    mixed = [predictions(x.split, features_ND=x.features_ND.astype(np.float64) @ mix_DD + 5) for x in (train, test)]
    plain = scores("mahalanobis", test, shrinkage=0)
    np.testing.assert_allclose(scores("mahalanobis", mixed[1], mixed[0], shrinkage=0), plain, rtol=1e-6)
    flat = predictions(features_ND=np.ones((200, 6), dtype=np.float32))
    with pytest.raises(ValueError, match="singular"):
        scores("mahalanobis", test, flat, shrinkage=0)


def test_knn_equals_scikit_learn() -> None:
    train, test = predictions(), predictions("test", samples=50)
    unit = [
        x.features_ND.astype(np.float64) / np.linalg.norm(x.features_ND, axis=1, keepdims=True) for x in (train, test)
    ]
    expected = NearestNeighbors(n_neighbors=7, algorithm="brute").fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    np.testing.assert_allclose(scores("knn", test, k=7), expected, atol=1e-7)
    with pytest.raises(ConfigError, match=r"detector\.k=500"):
        scores("knn", test, k=500)


def test_sampled_detectors_read_the_passes_or_say_what_is_missing() -> None:
    mc = SimpleNamespace(mutual_information_N=np.array([0.1, 0.2]), predictive_entropy_N=np.array([0.5, 0.6]))
    assert scores("mutual_information", predictions("test", mc=mc)).tolist() == [0.1, 0.2]
    assert scores("predictive_entropy", predictions("test", mc=mc)).tolist() == [0.5, 0.6]
    with pytest.raises(UserError, match=r"mc\.passes"):
        scores("mutual_information", predictions("test"))
