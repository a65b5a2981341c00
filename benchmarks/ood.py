"""Monte-Carlo dropout against the naive loop, distances against pytorch-ood and scikit-learn, a whole evaluation.

    python -m benchmarks.ood [--quick]

The naive loop puts the dropout modules into train mode, runs the whole network T times and computes the same statistics
from the stacked logits in float64. The bound of a placement is what a perfect implementation would reach: one plain
pass and T passes of what comes behind the first dropout, both timed in the same round. The evaluation runs every
detector but the ensembles, the shortcut probe and every metric, with 1,000 bootstrap replicates; it is compared with
one plain forward pass of the same images from memory, so that reading and drawing are outside on both sides.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.harness import Bench, Gate, Task, Times, ratios
from ssl_sat.encoders import ENCODERS
from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.bootstrap import bootstrap
from ssl_sat.ood.comparisons import compare
from ssl_sat.ood.keyed_dropout import frozen_eval
from ssl_sat.ood.mc_dropout import Sampler
from ssl_sat.ood.metrics import ood_metrics
from ssl_sat.ood.sanity import misclassification, wrong_predictions
from ssl_sat.ood.shortcut_probe import ShortcutProbe, image_statistics
from ssl_sat.ood.spec import PROBE, McDropoutSpec
from ssl_sat.training.classifier import Classifier

CLASSES, BANDS, PX = 10, ("B04", "B03", "B02"), 64
FEW = 200  # samples that scikit-learn scores by Mahalanobis distance; ours scores all of them
_NEEDS = ("pytorch_ood",)
_LOOP = "naive loop, the same statistics"
GATES = (
    Gate("MC dropout in the MLP head, T = 50", 20.0, ">=", "x faster", _LOOP, on_cuda=10.0),
    Gate("MC dropout before a linear head, T = 50", 20.0, ">=", "x faster", _LOOP, on_cuda=10.0),
    Gate("MC dropout, study's CNN, T = 20", 0.9, ">=", "of its bound", "bound of the placement, same round"),
    Gate("MC dropout, ViT, every block, T = 20", 0.9, ">=", "of its bound", "bound of the placement, same round"),
    Gate("Mahalanobis, 27,000 x 2,048", 5.0, ">=", "x faster", "pytorch-ood", _NEEDS),
    Gate("kNN, bank of 27,000 x 2,048", 1.0, ">=", "x faster", "pytorch-ood", _NEEDS),
    Gate("whole evaluation, 27,000 + 2,100 images", 1.3, "<=", "x", "one plain forward pass of the images"),
)


def classifier(encoder: dict[str, Any], head: dict[str, Any], device: str) -> Classifier:
    """An untrained network at 64 px: what it costs does not depend on its weights."""
    trunk = ENCODERS.build(ENCODERS.parse(encoder), bands=BANDS, image_size=PX, seed=0)
    return Classifier(trunk, ClassifierHead(trunk.embed_dim, CLASSES, seed=0, **head)).to(device).eval()


def naive(model: nn.Module, x_NCHW: Tensor, passes: int) -> tuple[Tensor, ...]:
    """What papers' code does: T whole passes with the dropout modules in train mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.train()
    with torch.no_grad():
        logits_TNK = torch.stack([model(x_NCHW) for _ in range(passes)]).double()
    model.eval()
    p_TNK = logits_TNK.softmax(-1)
    mean_NK = p_TNK.mean(0)
    predictive_N = -(mean_NK * mean_NK.log()).sum(-1)
    expected_N = -(p_TNK * logits_TNK.log_softmax(-1)).sum(-1).mean(0)
    return mean_NK, predictive_N, expected_N, predictive_N - expected_N, p_TNK.var(0).mean(-1)


def ours(model: nn.Module, x_NCHW: Tensor, passes: int) -> Sampler:
    """One plain pass and the dropout passes, the comparison with the whole network included."""
    sampler = Sampler(model, McDropoutSpec(passes=passes))
    with torch.no_grad(), frozen_eval(model):
        sampler(x_NCHW, torch.arange(len(x_NCHW), device=x_NCHW.device))
    sampler.results()
    return sampler


def run(bench: Bench, folder: Path) -> None:
    """Dropout, distances, evaluation."""
    _dropout_in_the_head(bench)
    _dropout_elsewhere(bench)
    _distances(bench)
    _evaluation(bench, folder)


def _images(bench: Bench, count: int) -> Tensor:
    return torch.randn(count, len(BANDS), PX, PX, generator=torch.Generator().manual_seed(0)).to(bench.device)


def _dropout_in_the_head(bench: Bench) -> None:
    resnet, x = {"name": "timm", "model": "resnet18"}, _images(bench, bench.size(64, 16))
    passes = bench.size(50, 10)
    for gate, head in ((GATES[0], {"dropout": 0.1}), (GATES[1], {"kind": "linear", "dropout": 0.1})):
        model = classifier(resnet, head, bench.device)
        times = bench.time({
            f"naive, {gate.name}": Task(len(x), lambda model=model: naive(model, x, passes), warm_up=False),
            f"ours, {gate.name}": Task(len(x), lambda model=model: ours(model, x, passes)),
        })  # fmt: skip
        found = ratios(times, f"naive, {gate.name}", f"ours, {gate.name}")
        bench.gate(gate.name, found, f"ResNet-18, {PX} px, {len(x)} images, T = {passes}")


def _dropout_elsewhere(bench: Bench) -> None:
    passes, x = bench.size(20, 4), _images(bench, bench.size(32, 8))
    cnn = classifier({"name": "cnn", "dropout": 0.1}, {"dropout": 0.1}, bench.device)
    block = nn.Sequential(*list(cnn.encoder.blocks[0])[:-1])  # without its dropout
    vit = classifier({"name": "timm", "model": "vit_tiny_patch16_224", "patch_size": 8, "drop_rate": 0.1},
                     {"dropout": 0.1}, bench.device)  # fmt: skip
    embed = vit.encoder.trunk.patch_embed  # in front of the dropout of tokens
    for gate, model, before in ((GATES[2], cnn, block), (GATES[3], vit, embed)):
        names = {part: f"{part}, {gate.name}" for part in ("naive", "ours", "plain pass", "in front of the dropout")}
        times = bench.time({
            names["naive"]: Task(len(x), lambda model=model: naive(model, x, passes), warm_up=False),
            names["ours"]: Task(len(x), lambda model=model: ours(model, x, passes)),
            names["plain pass"]: Task(len(x), lambda model=model: _plain(model, x)),
            names["in front of the dropout"]: Task(len(x), lambda before=before: _plain(before, x)),
        })  # fmt: skip
        bounds = _bounds(times, names, passes)
        found = ratios(times, names["naive"], names["ours"])
        shares = [speed / bound for speed, bound in zip(found, bounds, strict=True)]
        print(f"  {statistics.median(found):14,.2f} x   bound {statistics.median(bounds):.2f} x  {gate.name}")
        bench.gate(gate.name, shares, f"{statistics.median(found):.2f}x of {statistics.median(bounds):.2f}x")
        bench.figure(f"{gate.name}, speed", found, "x faster", f"{_LOOP}; bound {statistics.median(bounds):.2f}x")


def _plain(part: nn.Module, x_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return part(x_NCHW)


def _bounds(times: Times, names: dict[str, str], passes: int) -> list[float]:
    """T passes over one plain pass and T times what comes behind the first dropout, round by round."""
    rounds = zip(*(times[names[part]] for part in ("naive", "plain pass", "in front of the dropout")), strict=True)
    return [loop / (plain + loop - passes * before) for loop, plain, before in rounds]


def features(samples: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes with a falling spectrum, as a trained network's pooled features have; float32."""
    rng = np.random.default_rng(seed)
    centres_KD = np.random.default_rng(0).normal(0, 1, (CLASSES, width))
    labels_N = np.arange(samples) % CLASSES
    scale_D = 2.0 / np.sqrt(1 + np.arange(width))
    features_ND = rng.standard_normal((samples, width), dtype=np.float32) * scale_D.astype(np.float32) + 0.1
    return features_ND + centres_KD[labels_N].astype(np.float32) * scale_D.astype(np.float32), labels_N


def _held(features_ND: np.ndarray, labels_N: np.ndarray, split: str) -> Predictions:
    rows_N = np.arange(len(labels_N))
    return Predictions(
        features_ND=features_ND, logits_NK=np.zeros((len(labels_N), CLASSES), np.float32), labels_N=labels_N,
        rows_N=rows_N, ids=("",) * len(labels_N), classes=tuple("abcdefghij"), split=split, dataset="made_up",
    )  # fmt: skip


def _distances(bench: Bench) -> None:
    width = bench.size(2_048, 256)
    train = _held(*features(bench.size(27_000, 2_000), width, 1), "train")
    test = _held(*features(bench.size(2_700, 300), width, 2), "test")
    has_peer = bench.can(GATES[4].name, GATES[5].name)
    _one_distance(bench, GATES[4], train, train, _mahalanobis_peers(train, train, has_peer), "mahalanobis")
    _one_distance(bench, GATES[5], train, test, _knn_peers(train, test, has_peer), "knn")


def _one_distance(
    bench: Bench, gate: Gate, train: Predictions, scored: Predictions, peers: dict[str, Callable[[], Any]], name: str
) -> None:
    """Fit and score, ours and the peers'; a figure counts only where the ranks agree."""
    spec = DETECTORS.parse({"name": name} | ({"shrinkage": 0.0} if name == "mahalanobis" else {}))

    found: dict[str, np.ndarray] = {}

    def kept(side: str, score: Callable[[], Any]) -> Callable[[], None]:
        return lambda: found.__setitem__(side, np.asarray(score(), dtype=np.float64))

    sides = {"ours": lambda: DETECTORS.build(spec).fit(train)(scored).values, **peers}
    labels = {side: f"{side}, {gate.name}" for side in sides}
    tasks = {labels[side]: Task(len(scored), kept(side, score), warm_up=False) for side, score in sides.items()}
    times = bench.time(tasks, rounds=min(bench.rounds, 3))
    for peer in peers:
        agreement = float(spearmanr(found["ours"][: len(found[peer])], found[peer]).statistic)
        print(f"  {agreement:14.6f}     rank correlation with {peer}, {gate.name}", flush=True)
        if agreement < 0.999:
            raise AssertionError(f"{gate.name}: rank correlation with {peer} is {agreement}: nothing to compare")
    note = f"fit on {len(train):,}, {len(scored):,} scored"
    for peer in peers:
        faster = ratios(times, labels[peer], labels["ours"])
        if len(found[peer]) < len(scored):  # the whole call, though it scores fewer: a lower bound
            bench.figure(gate.name, faster, "x faster", f"against {peer}, which scores {len(found[peer])}; {note}")
            continue
        if peer == "pytorch-ood":
            bench.gate(gate.name, faster, note)
        else:
            bench.figure(gate.name, faster, "x faster", f"against {peer}; {note}")


def _mahalanobis_peers(train: Predictions, scored: Predictions, has_peer: bool) -> dict[str, Callable[[], Any]]:
    peers: dict[str, Callable[[], Any]] = {}
    if has_peer:
        from pytorch_ood.detector import Mahalanobis

        z, y, h = (torch.from_numpy(a) for a in (train.features_ND, train.labels_N, scored.features_ND))

        def pytorch_ood() -> Tensor:
            detector = Mahalanobis(None)
            detector.fit_features(z, y)
            return detector.predict_features(h)

        peers["pytorch-ood"] = pytorch_ood

    def scikit_learn() -> np.ndarray:
        """Of the first samples only, and once a class: its distance takes D^2 steps a pair, outside of any BLAS."""
        from sklearn.covariance import EmpiricalCovariance

        means_KD = np.stack([train.features_ND[train.labels_N == k].mean(0) for k in range(CLASSES)])
        found = EmpiricalCovariance(store_precision=True, assume_centered=True)
        found.fit(train.features_ND - means_KD[train.labels_N])
        distances = []
        for mean_D in means_KD:
            found.location_ = mean_D
            distances.append(found.mahalanobis(scored.features_ND[:FEW]))
        return np.min(distances, axis=0)

    return {**peers, "scikit-learn": scikit_learn}


def _knn_peers(train: Predictions, scored: Predictions, has_peer: bool) -> dict[str, Callable[[], Any]]:
    peers: dict[str, Callable[[], Any]] = {}
    if has_peer:
        from pytorch_ood.detector import KNN

        z, y, h = (torch.from_numpy(a) for a in (train.features_ND, train.labels_N, scored.features_ND))

        def pytorch_ood() -> Tensor:
            detector = KNN(None, k=50)
            detector.fit_features(z, y)
            return detector.predict_features(h)

        peers["pytorch-ood"] = pytorch_ood

    def scikit_learn() -> np.ndarray:
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import normalize

        nearest = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(normalize(train.features_ND))
        return nearest.kneighbors(normalize(scored.features_ND))[0][:, -1]

    return {**peers, "scikit-learn": scikit_learn}


def _evaluation(bench: Bench, folder: Path) -> None:
    """EuroSAT's number of images and UC Merced's; a ResNet-18, its head with dropout, T = 30."""
    sizes = {"train": bench.size(16_200, 256), "val": bench.size(5_400, 64), "test": bench.size(5_400, 64),
             "ood": bench.size(2_100, 64)}  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = classifier({"name": "timm", "model": "resnet18"}, {"dropout": 0.1}, bench.device)
    images = {
        name: torch.randint(0, 256, (size, len(BANDS), PX, PX), dtype=torch.uint8, generator=generator)
        for name, size in sizes.items()
    }
    labels = {name: torch.randint(0, CLASSES, (size,), generator=generator) for name, size in sizes.items()}

    def batches(name: str) -> Any:
        for at in torch.arange(sizes[name]).split(256):
            yield images[name][at].to(bench.device).float().div_(255).sub_(0.4).div_(0.1), at, labels[name][at]

    def forward() -> None:
        with torch.inference_mode():
            for name in sizes:
                for x_NCHW, _, _ in batches(name):
                    model(x_NCHW).cpu()

    statistics_of: dict[str, np.ndarray] = {}

    def watched(name: str) -> Any:
        parts = []
        for x_NCHW, rows_N, labels_N in batches(name):
            parts.append(image_statistics(x_NCHW * 0.1 + 0.4, BANDS).cpu().numpy())
            yield x_NCHW, rows_N, labels_N
        statistics_of[name] = np.concatenate(parts)

    def evaluation() -> None:
        found = {
            name: predict(
                model, watched(name), bench.device, dataset=name, split=name, classes=tuple("abcdefghij"),
                ids=[str(n) for n in range(sizes[name])], store=folder / name,
                mc=McDropoutSpec(passes=30) if name != "train" else None,
            )
            for name in sizes
        }  # fmt: skip
        _scored(found, statistics_of)

    total = sum(sizes.values())
    tasks = {"one plain forward pass": Task(total, forward, warm_up=False),
             "whole evaluation": Task(total, evaluation, warm_up=False)}  # fmt: skip
    times = bench.time(tasks, rounds=min(bench.rounds, 3))
    found = ratios(times, "whole evaluation", "one plain forward pass")
    bench.gate(GATES[6].name, found, f"{total:,} images, ResNet-18 at {PX} px, T = 30 on all but train")


def _scored(found: dict[str, Predictions], statistics_of: dict[str, np.ndarray]) -> None:
    """Every detector but the ensembles, and the probe, on validation, test and OOD; every metric and comparison."""
    probe = ShortcutProbe.fit(statistics_of["train"])
    scores = {PROBE: (probe(statistics_of["test"]), probe(statistics_of["ood"]))}
    wrong_N = wrong_predictions(found["val"].logits_NK, found["val"].labels_N)
    for entry in DETECTORS:
        if entry.name.startswith("ensemble_"):
            continue
        fitted = DETECTORS.build(entry.spec()).fit(found["train"])
        scores[entry.name] = (fitted(found["test"]), fitted(found["ood"]))
        misclassification(fitted(found["val"]), wrong_N)
    for pair in scores.values():
        ood_metrics(*pair)
        bootstrap([pair], id_clusters_n=np.asarray(found["test"].labels_N))
    compare(scores)
    compare(scores, against=PROBE)


if __name__ == "__main__":
    harness.main("ood", __doc__, GATES, run)
