"""Dropout in front of a linear head: folded masks are exact, moments match, and no network is run."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.ood.contract import LastLayer, NotApplicable
from ssl_sat.ood.keyed_dropout import KeyedDropout, _dropout, keep_mask, keys_of, masked_rows
from ssl_sat.ood.linear_head import MomentMatched, _normal, sample_last_layer
from ssl_sat.ood.mc_dropout import mc_dropout
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.spec import UserError

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 3, 4, 4, generator=GENERATOR)
ROWS = torch.randperm(100, generator=GENERATOR)[:40]


class Net(nn.Module):
    def __init__(self, width: int, *head: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.ReLU())
        self.head = nn.Sequential(*head) if head else nn.Sequential(nn.Dropout(0.4), nn.Linear(width, 5))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def run(model: nn.Module, **mc: object):
    parts = list(zip(X.split(16), ROWS.split(16), (ROWS % 5).split(16), strict=True))
    return predict(
        model, parts, dataset="d", split="test", classes=[*"abcde"], ids=[str(n) for n in range(100)],
        mc=McDropoutSpec(**mc) if mc else None,
    )  # fmt: skip


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("shape", [(6, 33), (6, 4, 5), (12, 7)])
def test_the_compiled_kernel_gives_the_bits_of_the_general_path(p: float, shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, generator=GENERATOR)
    low, high = keys_of(5, torch.arange(6), torch.arange(6) * 2**33)
    assert torch.equal(masked_rows(x, low, high, p), _dropout(x, keep_mask(x, low, high, p, channels=False), p))


def test_stored_predictions_alone_give_the_passes_of_the_network(tmp_path: Path) -> None:
    run(Net(64), passes=7, seed=11).save(tmp_path / "predictions")
    found = Predictions.load(tmp_path / "predictions")
    assert found.last is not None and found.last.dropout == 0.4
    again = sample_last_layer(found, McDropoutSpec(passes=7, seed=11))
    for name in ("log_p_NK", "mutual_information_N", "pass_variance_N"):
        np.testing.assert_allclose(getattr(again, name), getattr(found.mc, name), atol=1e-6)
    other = sample_last_layer(found, McDropoutSpec(passes=7, seed=12))
    direct = mc_dropout(Net(64), [(X, ROWS)], passes=7, seed=12)
    np.testing.assert_allclose(other.mutual_information_N, direct.mutual_information_N, atol=1e-6)


def test_other_networks_have_to_be_run() -> None:
    deep = run(Net(8, nn.Dropout(0.2), nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 5)), passes=3)
    assert deep.last is not None and deep.last.dropout is None
    with pytest.raises(NotApplicable, match="other dropouts than one"):
        sample_last_layer(deep, McDropoutSpec())
    with pytest.raises(NotApplicable, match="other dropouts than one"):
        sample_last_layer(run(Net(8)), McDropoutSpec())  # no passes were run, so nothing is known of its dropout
    with pytest.raises(UserError, match=r"mc\.method=moment_matched is for a dropout in front of a linear head"):
        run(Net(8, nn.Dropout(0.2), nn.Linear(8, 8), nn.Linear(8, 5)), passes=3, method="moment_matched")


def test_matched_moments_are_those_of_all_masks() -> None:
    """Mean and covariance over all 2^8 masks, each as probable as its dropped units make it."""
    p, x = 0.3, torch.rand(4, 8, generator=GENERATOR, dtype=torch.float64) * 3
    weight, bias = torch.randn(5, 8, generator=GENERATOR), torch.randn(5, generator=GENERATOR)
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)), dtype=torch.float64)
    share = (p ** (8 - masks.sum(1))) * ((1 - p) ** masks.sum(1))
    logits = torch.einsum("md,nd,kd->mnk", masks / (1 - p), x, weight.double()) + bias
    mean = torch.einsum("m,mnk->nk", share, logits)
    covariance = torch.einsum("m,mnk,mnj->nkj", share, logits - mean, logits - mean)
    matched = MomentMatched(x, torch.arange(4), weight, bias, p, seed=0)
    torch.testing.assert_close(matched.mean_NK, mean)
    torch.testing.assert_close(matched.root_NKK @ matched.root_NKK.mT, covariance)
    drawn = torch.cat([matched.logits(range(at, at + 1000)) for at in range(0, 40_000, 1000)])
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.1, rtol=0)
    for n in range(4):
        torch.testing.assert_close(drawn[:, n].T.cov(), covariance[n], atol=0.5, rtol=0.1)


def test_normal_numbers_are_normal_and_keyed() -> None:
    keys = keys_of(1, torch.arange(4000), torch.arange(4000) // 7)
    drawn = _normal(*keys, 5)
    assert kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn.numpy().T) - np.eye(5)).max() < 5 / math.sqrt(4000)
    assert torch.equal(_normal(keys[0][:3], keys[1][:3], 5), drawn[:3])


def test_moment_matching_comes_near_the_exact_masks_on_a_wide_head_and_is_named() -> None:
    model = Net(1024)
    exact, near = (run(model, passes=400, method=method) for method in ("exact", "moment_matched"))
    assert (exact.mc.method, near.mc.method) == ("exact", "moment_matched")
    assert not np.array_equal(exact.mc.mutual_information_N, near.mc.mutual_information_N)
    np.testing.assert_allclose(near.mc.mutual_information_N, exact.mc.mutual_information_N, rtol=0.25, atol=1e-4)
    assert np.corrcoef(near.mc.mutual_information_N, exact.mc.mutual_information_N)[0, 1] > 0.97


def test_results_do_not_depend_on_batches() -> None:
    found = run(Net(64), passes=5, method="moment_matched")
    order = np.random.default_rng(0).permutation(40)
    shuffled = replace(found.take(order), mc=None)
    again = sample_last_layer(shuffled, McDropoutSpec(passes=5, method="moment_matched"))
    np.testing.assert_allclose(again.mutual_information_N, found.mc.mutual_information_N[order], rtol=1e-5, atol=1e-9)


def test_masks_of_a_folded_pass_are_those_of_the_mode() -> None:
    """One input a class: the logits are the dropped inputs themselves."""
    last = LastLayer(np.eye(5, dtype=np.float32), np.zeros(5, np.float32), 0.5)
    x_NP = np.random.default_rng(0).uniform(1, 2, (9, 5)).astype(np.float32)
    stored = SimpleNamespace(last=last, penultimate_NP=x_NP, rows_N=np.arange(9))
    found = sample_last_layer(stored, McDropoutSpec(passes=2, seed=4))
    mode = KeyedDropout(4)
    with mode:
        passes = []
        for number in range(2):
            mode.at(torch.full((9,), number), torch.arange(9))
            passes.append(nn.functional.dropout(torch.tensor(x_NP), 0.5))
    p_NK = torch.stack(passes).double().softmax(-1).mean(0)
    np.testing.assert_allclose(np.exp(found.log_p_NK), p_NK.numpy(), atol=1e-12)
