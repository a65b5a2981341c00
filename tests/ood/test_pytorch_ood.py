"""Scores beside those of pytorch-ood: equal ranks where the definitions agree, the difference by formula where not.

pytorch-ood is part of the extra `dev` (and of `peers` alone); where it is absent the tests say so and do not run.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from ssl_sat.ood import DETECTORS
from ssl_sat.ood.contract import LastLayer
from ssl_sat.ood.detectors.shaping import largest
from ssl_sat.ood.mc_dropout import mc_dropout

peer = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is not installed: pip install -e '.[peers]'")

CLASSES, WIDTH = 6, 40
RNG = np.random.default_rng(0)
CENTRES = np.maximum(RNG.normal(0, 3, (CLASSES, WIDTH)), 0)
LAST = LastLayer((CENTRES / 20).astype(np.float32), RNG.normal(0, 0.3, CLASSES).astype(np.float32))


def predictions(split: str, samples: int, spread: float = 1.0) -> Any:
    labels_N = np.arange(samples) % CLASSES
    features_ND = np.maximum(CENTRES[labels_N] + RNG.normal(0, spread, (samples, WIDTH)), 0).astype(np.float32)
    logits_NK = LAST(features_ND).astype(np.float32)
    return SimpleNamespace(
        features_ND=features_ND, penultimate_NP=features_ND, logits_NK=logits_NK, labels_N=labels_N, split=split,
        mc=None, members=None, last=LAST, rows_N=np.arange(samples),
    )  # fmt: skip


TRAIN = predictions("train", 900)
TEST = predictions("test", 400, spread=2.0)  # from clear to doubtful
Z, Y, LOGITS = (torch.from_numpy(np.array(x)) for x in (TRAIN.features_ND, TRAIN.labels_N, TEST.logits_NK))
H = torch.from_numpy(TEST.features_ND)
MAPS = H[:, :, None, None]
HEAD = nn.Linear(WIDTH, CLASSES)
HEAD.weight.data, HEAD.bias.data = torch.from_numpy(LAST.weight_KP), torch.from_numpy(LAST.bias_K)
FLAT = nn.Sequential(nn.Flatten(), HEAD)


def ours(name: str, **settings: Any) -> np.ndarray:
    return DETECTORS.build(DETECTORS.parse({"name": name, **settings})).fit(TRAIN)(TEST).values


def rank(a: np.ndarray, b: Any) -> float:
    return float(spearmanr(a, np.asarray(b, dtype=np.float64)).statistic)


def of_features(detector: Any) -> torch.Tensor:
    detector.fit_features(Z, Y)
    return detector.predict_features(H)


SAME = {
    "msp": lambda: (ours("msp"), peer.MaxSoftmax(None).predict_logits(LOGITS.double())),
    "max_logit": lambda: (ours("max_logit"), peer.MaxLogit(None).predict_logits(LOGITS)),
    "energy": lambda: (ours("energy", temperature=2), peer.EnergyBased(None, t=2).predict_logits(LOGITS)),
    "entropy": lambda: (ours("entropy"), peer.Entropy(None).predict_logits(LOGITS.double())),
    "gen": lambda: (ours("gen", top=4), peer.GEN(None, gamma=0.1, M=4).predict_logits(LOGITS.double())),
    "mahalanobis": lambda: (ours("mahalanobis", shrinkage=0), of_features(peer.Mahalanobis(None))),
    "relative_mahalanobis": lambda: (ours("relative_mahalanobis", shrinkage=0), of_features(peer.RMD(None))),
    "gaussian_density": lambda: (ours("gaussian_density", shrinkage=0), of_features(peer.GMM(None, reg=0))),
    "knn": lambda: (ours("knn", k=20), of_features(peer.KNN(None, k=20))),
    "vim": lambda: (ours("vim", dimension=10), of_features(peer.ViM(None, 10, HEAD.weight, HEAD.bias))),
    "fdbd": lambda: (ours("fdbd"), of_features(peer.fDBD(None, HEAD))),
    "ash s": lambda: (ours("ash"), peer.ASH(None, FLAT, "ash-s", 0.65).predict_feature_maps(MAPS)),
    "ash p": lambda: (ours("ash", variant="p"), peer.ASH(None, FLAT, "ash-p", 0.65).predict_feature_maps(MAPS)),
    "ash b": lambda: (ours("ash", variant="b"), peer.ASH(None, FLAT, "ash-b", 0.65).predict_feature_maps(MAPS)),
    "scale": lambda: (ours("scale"), peer.SCALE(None, FLAT, 0.85).predict_feature_maps(MAPS)),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_definition_ranks_alike(name: str) -> None:
    own, theirs = SAME[name]()
    assert rank(own, theirs) > 0.9999


def test_react_cuts_at_the_same_quantile() -> None:
    detector = peer.ReAct(None, FLAT, percentile=0.9)
    detector.fit_feature_maps(Z[:, :, None, None], Y)
    assert rank(ours("react"), detector.predict_feature_maps(MAPS)) > 0.9999


def test_values_differ_by_the_constants_that_the_definitions_name() -> None:
    """Mahalanobis there: half the distance, under the scatter instead of scatter / n (with 1e-6 on its diagonal)."""
    theirs = of_features(peer.Mahalanobis(None)).double().numpy()
    np.testing.assert_allclose(ours("mahalanobis", shrinkage=0), 2 * len(Z) * theirs, rtol=2e-3)
    np.testing.assert_allclose(ours("energy"), peer.EnergyBased(None).predict_logits(LOGITS).numpy(), rtol=1e-5)
    gen = peer.GEN(None, gamma=0.1, M=4).predict_logits(LOGITS.double()).numpy()  # the mean over M, not the sum
    np.testing.assert_allclose(ours("gen", top=4), 4 * gen, rtol=1e-5)
    np.testing.assert_allclose(ours("knn", k=20), of_features(peer.KNN(None, k=20)).numpy(), rtol=1e-4)
    density = of_features(peer.GMM(None, reg=0)).numpy()
    np.testing.assert_allclose(ours("gaussian_density", shrinkage=0), density, rtol=1e-6)
    vim = of_features(peer.ViM(None, 10, HEAD.weight, HEAD.bias)).numpy()
    np.testing.assert_allclose(ours("vim", dimension=10), vim, rtol=1e-3, atol=1e-3)


def test_confident_samples_keep_their_order_here_and_lose_it_there() -> None:
    """Theirs is -p_max in the precision of the logits, and exactly -1 for these; ours is log(1 - p_max)."""
    logits_NK = np.zeros((50, CLASSES), np.float32)
    logits_NK[:, 0] = np.linspace(20, 60, 50)
    theirs = peer.MaxSoftmax(None).predict_logits(torch.from_numpy(logits_NK))
    sure = SimpleNamespace(**{**vars(TEST), "logits_NK": logits_NK})
    own = DETECTORS.build(DETECTORS.parse({"name": "msp"})).fit(TRAIN)(sure).values
    assert len(torch.unique(theirs)) == 1 and len(np.unique(own)) == 50
    entropy = peer.Entropy(None).predict_logits(torch.from_numpy(logits_NK))  # probabilities cut off at 1e-7
    assert len(torch.unique(entropy)) < 20
    assert (np.diff(DETECTORS.build(DETECTORS.parse({"name": "entropy"})).fit(TRAIN)(sure).values) < 0).all()


def test_gen_counts_each_class_once_here() -> None:
    """With probabilities cut off at 1e-7 as theirs, GEN of a sure sample is dominated by the cut; ours has none."""
    sure = torch.zeros(1, CLASSES, dtype=torch.float64)
    sure[0, 0] = 60.0
    theirs = float(peer.GEN(None, gamma=0.1).predict_logits(sure)[0]) * CLASSES
    assert theirs == pytest.approx(CLASSES * (1e-7) ** 0.1, rel=1e-3)
    single = SimpleNamespace(**{**vars(TEST), "logits_NK": sure.numpy()})
    own = DETECTORS.build(DETECTORS.parse({"name": "gen"})).fit(TRAIN)(single).values[0]
    small = np.exp(-60.0)
    assert own == pytest.approx(5 * small**0.1 + (5 * small) ** 0.1, rel=1e-9)


def test_ties_at_the_cut_of_ash_are_counted_not_valued() -> None:
    """Both keep exactly P - round(P prune) entries; among equal ones any choice gives the same sums."""
    x_NP = np.array([[1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    assert largest(x_NP, 0.65).sum() == 8 - round(8 * 0.65) == 3


def test_variance_over_passes_divides_by_their_number() -> None:
    """MCD there draws its own masks by train mode and divides by T - 1; in the limit of T both give one number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4)).eval()
    x = torch.randn(40, 3, 2, 2)
    own = mc_dropout(model, [(x, torch.arange(40))], passes=2000, seed=0)
    theirs = peer.MCD.run(model, x, samples=2000)[1]
    np.testing.assert_allclose(own.pass_variance_N * 2000 / 1999, theirs.numpy(), rtol=0.25)
    assert rank(own.pass_variance_N, theirs) > 0.99  # not .9999: each has its own masks
