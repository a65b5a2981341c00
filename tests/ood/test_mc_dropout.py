"""Monte-Carlo dropout: closed forms, enumeration of all masks, and independence of batches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import timm
import torch
from scipy.special import digamma
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_sat.ood.contract import McResult, NotApplicable
from ssl_sat.ood.keyed_dropout import KeyedDropout
from ssl_sat.ood.mc_dropout import McAccumulator, mc_dropout
from ssl_sat.spec import UserError

torch.set_num_threads(1)


def statistics(p_TNK: np.ndarray, chunk: int = 10**9) -> McResult:
    accumulator = McAccumulator()
    for part in torch.log(torch.as_tensor(p_TNK).clamp(min=1e-300)).split(chunk):
        accumulator.add(part)
    return accumulator.result(torch.arange(p_TNK.shape[1]), seed=0)


def test_identical_passes_have_no_mutual_information() -> None:
    p_NK = np.random.default_rng(0).dirichlet(np.ones(5), size=20)
    found = statistics(np.stack([p_NK] * 7))
    assert np.abs(found.mutual_information_N).max() < 1e-14
    np.testing.assert_allclose(found.predictive_entropy_N, -(p_NK * np.log(p_NK)).sum(1), atol=1e-14)
    assert found.pass_variance_N.max() < 1e-15


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_disjoint_one_hots_have_log_k(classes: int) -> None:
    found = statistics(np.eye(classes)[:, None, :])
    assert found.mutual_information_N[0] == pytest.approx(math.log(classes), abs=1e-12)
    assert found.expected_entropy_N[0] == pytest.approx(0, abs=1e-12)


def test_two_opposed_passes() -> None:
    a = 0.9
    found = statistics(np.array([[[a, 1 - a]], [[1 - a, a]]]))
    entropy = -a * math.log(a) - (1 - a) * math.log(1 - a)
    assert found.mutual_information_N[0] == pytest.approx(math.log(2) - entropy, abs=1e-14)
    assert found.mutual_information_N[0] == pytest.approx(0.36806, abs=1e-5)
    assert found.pass_variance_N[0] == pytest.approx((a - 0.5) ** 2, abs=1e-15)


def test_dirichlet_passes_approach_the_analytic_value() -> None:
    alpha_K = np.array([2.0, 1.0, 0.5])
    mean_K = alpha_K / alpha_K.sum()
    truth = -(mean_K * (np.log(mean_K) - digamma(alpha_K + 1) + digamma(alpha_K.sum() + 1))).sum()
    p_TNK = np.random.default_rng(1).dirichlet(alpha_K, size=(1000, 100))
    found = statistics(p_TNK)
    assert found.mutual_information_N.mean() == pytest.approx(truth, abs=0.003)
    few = statistics(p_TNK[:5])
    assert few.mutual_information_N.mean() < truth - 0.02  # biased low in T, as the protocol says


def test_chunks_of_passes_add_up() -> None:
    p_TNK = np.random.default_rng(2).dirichlet(np.ones(4), size=(11, 6))
    whole, parts = statistics(p_TNK), statistics(p_TNK, chunk=3)
    for name in ("log_p_NK", "mutual_information_N", "pass_variance_N"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-14)
    np.testing.assert_allclose(whole.pass_variance_N, p_TNK.var(axis=0).mean(axis=1), atol=1e-14)


def test_confident_passes_stay_within_the_bounds() -> None:
    logits_TNK = torch.randn(30, 200, 10, generator=torch.Generator().manual_seed(0)) * 80
    accumulator = McAccumulator()
    accumulator.add(logits_TNK)
    found = accumulator.result(torch.arange(200), 0)  # asserts the bounds
    assert (found.mutual_information_N <= math.log(10)).all()


class Small(nn.Module):
    """Features without dropout, a head with eight units of which each is dropped by a fair coin."""

    def __init__(self, p: float = 0.5, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.last = nn.Sequential(nn.Linear(4, 8), nn.Dropout(p), nn.Linear(8, 3))

    def features(self, x_NCHW: Tensor) -> Tensor:
        return self.trunk(x_NCHW).flatten(1)

    def head(self, h_ND: Tensor) -> Tensor:
        return self.last(h_ND)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.features(x_NCHW))


def images(count: int, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 3


def batches(x_NCHW: Tensor, size: int, order: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    rows_N = torch.arange(len(x_NCHW)) if order is None else order
    return [(x_NCHW[part], part) for part in rows_N.split(size)]


def test_many_passes_reach_the_enumeration_of_all_masks() -> None:
    model, x_NCHW = Small().eval(), images(6)
    with torch.no_grad():
        hidden_ND = model.last[0](model.features(x_NCHW))
        masks_TD = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)))
        logits_TNK = model.last[2](hidden_ND[None] * masks_TD[:, None] * 2)
    accumulator = McAccumulator()
    accumulator.add(logits_TNK)
    exact = accumulator.result(torch.arange(6), 0)
    p_TNK = torch.softmax(logits_TNK.double(), -1).numpy()
    mean_NK = p_TNK.mean(0)
    direct_N = -(mean_NK * np.log(mean_NK)).sum(1) + (p_TNK * np.log(p_TNK)).sum(2).mean(0)
    np.testing.assert_allclose(exact.mutual_information_N, direct_N, atol=1e-13)
    found = mc_dropout(model, batches(x_NCHW, 6), passes=20_000, seed=3)
    np.testing.assert_allclose(found.mutual_information_N, exact.mutual_information_N, rtol=0.05)
    np.testing.assert_allclose(np.exp(found.log_p_NK), mean_NK, atol=0.01)


def test_every_mask_of_eight_units_is_equally_frequent() -> None:
    mode, passes = KeyedDropout(seed=11), 256 * 100
    mode.at(torch.arange(passes), torch.full((passes,), 7))
    with mode:
        kept_TD = F.dropout(torch.ones(passes, 8), 0.5, training=False) > 0
    counts = np.bincount((kept_TD.long() @ (2 ** torch.arange(8))).numpy(), minlength=256)
    chi2 = ((counts - 100) ** 2 / 100).sum()
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_have_the_rate_and_no_correlation(p: float) -> None:
    mode = KeyedDropout(seed=5)
    mode.at(torch.arange(400), torch.arange(400) // 4)
    with mode:
        first, second = (F.dropout(torch.ones(400, 1000), p, training=False) for _ in range(2))
    assert torch.unique(first).tolist() == pytest.approx([0.0, 1 / (1 - p)])
    assert float((first > 0).double().mean()) == pytest.approx(1 - p, abs=4 * math.sqrt(p * (1 - p) / 4e5))
    for a, b in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        correlation = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
        assert abs(correlation) < 5 / math.sqrt(a.numel())


MODELS = {
    "split head": lambda: Small(),
    "timm resnet": lambda: timm.create_model("resnet10t", drop_rate=0.3, num_classes=4),
    "timm vit": lambda: timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        depth=2,
        drop_rate=0.1,
        attn_drop_rate=0.3,
        drop_path_rate=0.5,
        num_classes=4,
    ),
    "channel dropout": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Dropout2d(0.3),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_results_do_not_depend_on_batches_or_order(name: str) -> None:
    torch.manual_seed(0)
    model, x_NCHW = MODELS[name](), images(64, size=32)
    one = mc_dropout(model, batches(x_NCHW, 64), passes=4, seed=9)
    for other in (
        mc_dropout(model, batches(x_NCHW, 7), passes=4, seed=9),
        mc_dropout(model, batches(x_NCHW, 1), passes=4, seed=9),
        mc_dropout(model, batches(x_NCHW, 16, torch.randperm(64)), passes=4, seed=9),
    ):
        order = np.argsort(other.rows_N)
        np.testing.assert_allclose(other.mutual_information_N[order], one.mutual_information_N, atol=1e-6)
        np.testing.assert_allclose(other.log_p_NK[order], one.log_p_NK, atol=1e-5)
    again = mc_dropout(model, batches(x_NCHW, 64), passes=4, seed=9)
    assert np.array_equal(again.mutual_information_N, one.mutual_information_N)
    reseeded = mc_dropout(model, batches(x_NCHW, 64), passes=4, seed=10)
    assert not np.allclose(reseeded.mutual_information_N, one.mutual_information_N)


def test_repeating_the_head_alone_equals_repeating_the_model() -> None:
    class Whole(Small):
        features = None  # type: ignore[assignment]

        def forward(self, x_NCHW: Tensor) -> Tensor:
            return self.head(self.trunk(x_NCHW).flatten(1))

    x_NCHW = images(20)
    split, whole = (mc_dropout(kind(), batches(x_NCHW, 20), passes=6, seed=1) for kind in (Small, Whole))
    np.testing.assert_allclose(split.log_p_NK, whole.log_p_NK, atol=1e-6)
    np.testing.assert_allclose(split.mutual_information_N, whole.mutual_information_N, atol=1e-7)


def test_attention_dropout_alone_is_active_in_a_vit() -> None:
    torch.manual_seed(0)
    make = {"img_size": 32, "depth": 2, "num_classes": 4}
    model = timm.create_model("vit_tiny_patch16_224", attn_drop_rate=0.5, **make)
    fused = [block.attn.fused_attn for block in model.blocks]
    found = mc_dropout(model, batches(images(8, 32), 8), passes=5, seed=0)
    assert (found.pass_variance_N > 0).all()
    assert [block.attn.fused_attn for block in model.blocks] == fused
    drop_path_alone = timm.create_model("vit_tiny_patch16_224", drop_path_rate=0.5, **make)
    with pytest.raises(UserError, match=r"head\.dropout"):
        mc_dropout(drop_path_alone, batches(images(8, 32), 8), passes=5, seed=0)


def test_training_flags_and_buffers_are_as_before() -> None:
    model = Small().train()
    model.last[0].eval()
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mc_dropout(model, batches(images(10), 5), passes=3, seed=0)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    mode = KeyedDropout(seed=1)
    x_BD = torch.randn(500, 400, generator=torch.Generator().manual_seed(0))
    mode.at(torch.zeros(500, dtype=torch.long), torch.arange(500))
    with mode:
        y_BD = F.alpha_dropout(x_BD, 0.2, training=False)
    assert float(y_BD.mean()) == pytest.approx(0, abs=0.02)
    assert float(y_BD.var()) == pytest.approx(1, abs=0.02)


def test_channel_dropout_drops_whole_channels_and_inplace_writes() -> None:
    mode, x_NCHW = KeyedDropout(seed=1), torch.ones(50, 20, 4, 4)
    mode.at(torch.zeros(50, dtype=torch.long), torch.arange(50))
    with mode:
        y_NCHW = nn.Dropout2d(0.5, inplace=True).eval()(x_NCHW)
    assert torch.equal(x_NCHW, y_NCHW)
    assert torch.equal(y_NCHW.amin((2, 3)), y_NCHW.amax((2, 3)))
    assert set(y_NCHW.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    "layer",
    [
        nn.MultiheadAttention(8, 2, dropout=0.1),
        nn.LSTM(8, 8, num_layers=2, dropout=0.1),
        nn.TransformerEncoderLayer(8, 2, dropout=0.1),
        nn.BatchNorm1d(8, track_running_stats=False),
    ],
)
def test_layers_out_of_reach_are_refused(layer: nn.Module) -> None:
    model = Small()
    model.extra = layer
    with pytest.raises(UserError, match="extra"):
        mc_dropout(model, batches(images(4), 4), passes=3, seed=0)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no dropout is active"):
        mc_dropout(Small(p=0.0), batches(images(4), 4), passes=3, seed=0)
    with pytest.raises(UserError, match="passes=1"):
        mc_dropout(Small(), batches(images(4), 4), passes=1, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        mc_dropout(Small(), batches(images(4) * math.nan, 4), passes=3, seed=0)

    class Unused(Small):
        def head(self, h_ND: Tensor) -> Tensor:
            return super().head(h_ND) * 0 + 1

    with pytest.raises(NotApplicable, match="same logits"):
        mc_dropout(Unused(), batches(images(4), 4), passes=3, seed=0)


def test_masks_have_their_golden_values() -> None:
    """The same on every machine and release; a change of these needs a new version of the sampled detectors."""
    mode = KeyedDropout(seed=3)
    mode.at(torch.tensor([0, 0, 5]), torch.tensor([0, 17, 2**40]))
    with mode:
        first = F.dropout(torch.ones(3, 16), 0.5, training=False) > 0
        second = F.dropout(torch.ones(3, 16), 0.5, training=False) > 0
    found = [int(row) for row in (torch.cat([first, second]).long() @ (2 ** torch.arange(16)))]
    assert found == [58667, 65278, 45140, 49368, 57899, 21684]
