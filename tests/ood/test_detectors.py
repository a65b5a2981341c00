"""Detectors against closed forms, naive loops, scipy and scikit-learn; what they do not depend on; what they refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from scipy.special import logsumexp
from scipy.stats import entropy, multivariate_normal
from sklearn.neighbors import NearestNeighbors

from ssl_sat.ood import DETECTORS, gaussian
from ssl_sat.ood.contract import LastLayer, NotApplicable
from ssl_sat.ood.detectors import knn
from ssl_sat.ood.score import Scores
from ssl_sat.spec import ConfigError, UserError


def predictions(split: str = "train", samples: int = 200, **changes: Any) -> Any:
    rng = np.random.default_rng(len(split))
    labels_N = rng.integers(0, 4, samples)
    features_ND = (rng.normal(size=(samples, 6)) + labels_N[:, None]).astype(np.float32)
    logits_NK = (features_ND[:, :4] * 3).astype(np.float32)
    base = {"features_ND": features_ND, "logits_NK": logits_NK, "labels_N": labels_N, "split": split, "mc": None}
    base |= {"members": None, "last": None, "penultimate_NP": None}
    return SimpleNamespace(**{**base, **changes})


LAST = LastLayer(
    np.random.default_rng(5).normal(0, 1, (4, 6)).astype(np.float32), np.array([0.3, -0.2, 0.1, 0.5], np.float32)
)


def positive(split: str = "train", samples: int = 200, last: LastLayer = LAST, **changes: Any) -> Any:
    """Non-negative inputs of a last layer, with the logits that the layer gives."""
    x_NP = np.abs(predictions(split, samples).features_ND)
    logits_NK = last(x_NP).astype(np.float32)
    return predictions(split, samples, **{"features_ND": x_NP, "logits_NK": logits_NK, "last": last,
                                          "penultimate_NP": x_NP, **changes})  # fmt: skip


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


def test_knn_of_many_equal_features_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties, zeros and near-ties: more candidates than the short cut takes, and the same numbers with and without it."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=32)
    bank = np.concatenate([np.tile(centre, (300, 1)), centre + rng.normal(0, 1e-6, (300, 32)), np.zeros((5, 32))])
    train = predictions(features_ND=bank.astype(np.float32), labels_N=np.zeros(605, np.int64), samples=605)
    test = predictions("test", features_ND=(centre + rng.normal(0, 1e-5, (40, 32))).astype(np.float32), samples=40)
    unit = [np.asarray(x.features_ND, np.float64) for x in (train, test)]
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in unit]
    expected = np.sort(np.linalg.norm(unit[1][:, None] - unit[0][None], axis=2), axis=1)[:, 449]
    found = scores("knn", test, train, k=450)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(knn, "_CANDIDATES", 10**9)
    np.testing.assert_allclose(scores("knn", test, train, k=450), expected, rtol=1e-9, atol=1e-12)


def test_relative_mahalanobis_takes_one_gaussian_of_all_from_the_distance() -> None:
    train, test = predictions(), predictions("test", samples=30)
    x_ND = train.features_ND.astype(np.float64)
    inverse = np.linalg.inv(np.cov(x_ND.T, bias=True))
    moved = test.features_ND - x_ND.mean(0)
    expected = scores("mahalanobis", test, shrinkage=0) - np.einsum("nd,de,ne->n", moved, inverse, moved)
    np.testing.assert_allclose(scores("relative_mahalanobis", test, shrinkage=0), expected, rtol=1e-6, atol=1e-9)


def test_chunks_of_rows_give_the_same_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    test = predictions("test", samples=30)
    whole = [scores(name, test) for name in ("mahalanobis", "relative_mahalanobis", "gaussian_density")]
    monkeypatch.setattr(gaussian, "_CHUNK", 7)
    parts = [scores(name, test) for name in ("mahalanobis", "relative_mahalanobis", "gaussian_density")]
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


def test_density_is_scipys_mixture() -> None:
    train, test = predictions(), predictions("test", samples=30)
    mixture = np.zeros(30)
    for label in range(4):
        own = train.features_ND[train.labels_N == label].astype(np.float64)
        covariance = np.cov(own.T, bias=True)
        covariance += 0.01 * np.trace(covariance) / 6 * np.eye(6)
        mixture += len(own) / 200 * multivariate_normal(own.mean(0), covariance).pdf(test.features_ND)
    np.testing.assert_allclose(scores("gaussian_density", test, shrinkage=0.01), -np.log(mixture), rtol=1e-6)
    lonely = predictions(labels_N=np.array([1] + [0] * 199))
    with pytest.raises(NotApplicable, match="2 training samples of every class"):
        scores("gaussian_density", test, lonely)


def test_gen_is_its_sum_and_equals_gini_at_gamma_one() -> None:
    test = predictions("test")
    p_NK = np.exp(test.logits_NK.astype(np.float64))
    p_NK = np.sort(p_NK / p_NK.sum(1, keepdims=True), axis=1)[:, ::-1]
    expected = (p_NK[:, :3] ** 0.2 * (1 - p_NK[:, :3]) ** 0.2).sum(1)
    np.testing.assert_allclose(scores("gen", test, gamma=0.2, top=3), expected, rtol=1e-6)
    almost = scores("gen", test, gamma=1 - 1e-12)
    np.testing.assert_allclose(almost, 1 - (p_NK**2).sum(1), rtol=1e-6, atol=1e-9)


def test_vim_equals_its_equations() -> None:
    train, test = positive(), positive("test", samples=30)
    x_NP, weight, bias = train.penultimate_NP.astype(np.float64), LAST.weight_KP.astype(np.float64), LAST.bias_K
    origin = -np.linalg.pinv(weight) @ bias
    values, vectors = np.linalg.eigh((x_NP - origin).T @ (x_NP - origin))
    rest = vectors[:, np.argsort(values)[:4]]  # of six, without the two largest
    alpha = train.logits_NK.max(1).mean() / np.linalg.norm((x_NP - origin) @ rest, axis=1).mean()
    virtual = alpha * np.linalg.norm((test.penultimate_NP - origin) @ rest, axis=1)
    expected = virtual - np.log(np.exp(test.logits_NK.astype(np.float64)).sum(1))
    np.testing.assert_allclose(scores("vim", test, train, dimension=2), expected, rtol=1e-6, atol=1e-9)
    probability = 1 - 1 / (1 + np.exp(expected))  # their equation 6, of the virtual logit among all
    assert np.array_equal(np.argsort(probability), np.argsort(expected))
    with pytest.raises(ConfigError, match=r"detector\.dimension=6 leaves nothing of 6"):
        scores("vim", test, train, dimension=6)


def test_vim_does_not_measure_rounding_where_units_never_fire() -> None:
    train = positive()
    x_NP = train.penultimate_NP * np.array([1, 1, 1, 0, 0, 0], np.float32)
    dead = positive(penultimate_NP=x_NP, logits_NK=LAST(x_NP).astype(np.float32))
    assert np.isfinite(scores("vim", dead, dead, dimension=2)).all()
    with pytest.raises(NotApplicable, match=r"lie in a space of 4 dimensions.*Set a smaller dimension"):
        scores("vim", dead, dead, dimension=4)  # three that fire and the constant step to the origin


def test_fdbd_equals_a_loop_over_classes() -> None:
    train, test = positive(), positive("test", samples=20)
    mean = train.penultimate_NP.astype(np.float64).mean(0)
    expected = []
    for x, z in zip(test.penultimate_NP.astype(np.float64), test.logits_NK.astype(np.float64), strict=True):
        y = int(z.argmax())
        apart = [np.linalg.norm((LAST.weight_KP[y] - LAST.weight_KP[c]).astype(np.float64)) for c in range(4)]
        boundaries = [abs(z[y] - z[c]) / apart[c] for c in range(4) if c != y]
        expected.append(-np.mean(boundaries) / np.linalg.norm(x - mean))
    np.testing.assert_allclose(scores("fdbd", test, train), expected, rtol=1e-6)


def test_shaped_energies_equal_a_loop_over_samples() -> None:
    train, test = positive(), positive("test", samples=25)
    limit = np.quantile(train.penultimate_NP, 0.9)
    expected: dict[str, list[float]] = {name: [] for name in ("react", "s", "p", "b", "scale")}
    for x in test.penultimate_NP.astype(np.float64):
        top = np.sort(np.argsort(-x)[:2])  # 6 - round(6 * 0.65) = 2 of six
        kept = np.zeros(6)
        kept[top] = x[top]
        even = np.zeros(6)
        even[top] = x.sum() / 2
        ratio = np.exp(x.sum() / kept.sum())
        shaped = {"react": np.minimum(x, limit), "s": kept * ratio, "p": kept, "b": even, "scale": x * ratio}
        for name, h in shaped.items():
            expected[name].append(-logsumexp(LAST.weight_KP.astype(np.float64) @ h + LAST.bias_K))
    np.testing.assert_allclose(scores("react", test, train), expected["react"], rtol=1e-6)
    for variant in "spb":
        np.testing.assert_allclose(scores("ash", test, train, variant=variant), expected[variant], rtol=1e-6)
    np.testing.assert_allclose(scores("scale", test, train, prune=0.65), expected["scale"], rtol=1e-6)


def test_dark_samples_are_scored_too() -> None:
    """No activation at all: nothing is divided by its sum of 0."""
    test = positive("test", samples=3, penultimate_NP=np.zeros((3, 6), np.float32))
    plain = -np.log(np.exp(LAST.bias_K.astype(np.float64)).sum())
    for name in ("react", "ash", "scale"):
        np.testing.assert_allclose(scores(name, test, positive()), plain)
    np.testing.assert_allclose(scores("ash", test, positive(), variant="b"), plain)


@pytest.mark.parametrize("name", ["msp", "entropy", "gen"])
def test_scores_of_the_softmax_ignore_what_all_logits_share(name: str) -> None:
    test = predictions("test")
    moved = predictions("test", logits_NK=test.logits_NK.astype(np.float64) + 7)
    np.testing.assert_allclose(scores(name, moved), scores(name, test), rtol=1e-9)


@pytest.mark.parametrize("name", ["energy", "max_logit"])
def test_energy_and_the_largest_logit_move_with_them(name: str) -> None:
    test = predictions("test")
    moved = predictions("test", logits_NK=test.logits_NK.astype(np.float64) + 7)
    np.testing.assert_allclose(scores(name, moved), scores(name, test) - 7, rtol=1e-9)


@pytest.mark.parametrize("name", ["msp", "entropy", "gen", "energy", "max_logit"])
def test_names_of_classes_do_not_matter(name: str) -> None:
    test = predictions("test")
    swapped = predictions("test", logits_NK=test.logits_NK[:, [2, 0, 3, 1]])
    np.testing.assert_allclose(scores(name, swapped), scores(name, test), rtol=1e-12)


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis", "gaussian_density", "knn"])
def test_distances_do_not_depend_on_a_rotation_of_features(name: str) -> None:
    train, test = predictions(), predictions("test")
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    turned = [predictions(x.split, features_ND=x.features_ND.astype(np.float64) @ turn) for x in (train, test)]
    np.testing.assert_allclose(scores(name, turned[1], turned[0]), scores(name, test), rtol=1e-6, atol=1e-9)


def test_knn_looks_at_directions_alone() -> None:
    train, test = predictions(), predictions("test")
    longer = predictions("test", features_ND=test.features_ND * np.arange(1, 201)[:, None])
    np.testing.assert_allclose(scores("knn", longer, train), scores("knn", test, train), rtol=1e-4, atol=1e-6)


def test_vim_and_fdbd_do_not_depend_on_a_rotation_of_the_last_layers_inputs() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    turned_last = LastLayer(LAST.weight_KP.astype(np.float64) @ turn, LAST.bias_K)  # type: ignore[arg-type]
    train, test = positive(), positive("test")
    turned = [
        positive(
            x.split, last=turned_last, logits_NK=x.logits_NK, penultimate_NP=x.penultimate_NP.astype(np.float64) @ turn
        )
        for x in (train, test)
    ]
    for name in ("vim", "fdbd"):
        np.testing.assert_allclose(scores(name, turned[1], turned[0]), scores(name, test, train), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["react", "ash", "scale"])
def test_signed_features_are_refused_with_their_share(name: str) -> None:
    signed = predictions(last=LAST, penultimate_NP=predictions().features_ND)
    with pytest.raises(NotApplicable, match=r"is for non-negative features .*go down to -\d.* % are below 0"):
        scores(name, signed, signed)
    train = positive()
    with pytest.raises(NotApplicable, match="non-negative"):  # and in the test set alone
        scores(name, predictions("test", last=LAST, penultimate_NP=predictions("test").features_ND), train)


@pytest.mark.parametrize("name", ["vim", "fdbd", "react", "ash", "scale"])
def test_a_head_that_ends_otherwise_is_named(name: str) -> None:
    with pytest.raises(NotApplicable, match=f"'{name}' works on the last linear layer"):
        scores(name, predictions("test"))


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis", "gaussian_density"])
def test_several_labels_a_sample_and_no_label_at_all_are_named(name: str) -> None:
    with pytest.raises(NotApplicable, match="one label a sample"):
        scores(name, predictions("test"), predictions(labels_N=np.zeros((200, 4))))
    with pytest.raises(NotApplicable, match="at least 1 class; there are 0"):
        scores(name, predictions("test"), predictions(labels_N=np.full(200, -1)))


def test_one_class_is_no_classification() -> None:
    with pytest.raises(NotApplicable, match="K >= 2 classes"):
        scores("msp", predictions("test", logits_NK=np.zeros((200, 1), np.float32)))


def test_ensembles_read_the_members_or_say_what_is_missing() -> None:
    members = SimpleNamespace(
        mutual_information_N=np.array([0.1, 0.2]), predictive_entropy_N=np.array([0.5, 0.6]),
        pass_variance_N=np.array([0.3, 0.4]),
    )  # fmt: skip
    assert scores("ensemble_mutual_information", predictions("test", members=members)).tolist() == [0.1, 0.2]
    assert scores("ensemble_predictive_entropy", predictions("test", members=members)).tolist() == [0.5, 0.6]
    assert scores("ensemble_variance", predictions("test", members=members)).tolist() == [0.3, 0.4]
    with pytest.raises(NotApplicable, match="needs an ensemble"):
        scores("ensemble_variance", predictions("test"))


def test_sampled_detectors_read_the_passes_or_say_what_is_missing() -> None:
    mc = SimpleNamespace(mutual_information_N=np.array([0.1, 0.2]), predictive_entropy_N=np.array([0.5, 0.6]))
    assert scores("mutual_information", predictions("test", mc=mc)).tolist() == [0.1, 0.2]
    assert scores("predictive_entropy", predictions("test", mc=mc)).tolist() == [0.5, 0.6]
    with pytest.raises(UserError, match=r"mc\.passes"):
        scores("mutual_information", predictions("test"))
