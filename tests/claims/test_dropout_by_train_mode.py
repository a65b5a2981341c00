"""Published mistake: dropout turned on with model.train(), so batch norm re-estimates on the test batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_sat.ood.mc_dropout import mc_dropout


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(8, 4),
    )  # fmt: skip


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) * 4 + 2


def test_the_mistake_moves_the_statistics_and_mixes_the_samples() -> None:
    model, x_NCHW = network().train(), images(8)
    model[5].p = 0.0  # even without any dropout ...
    with torch.no_grad():
        alone, among = model(x_NCHW[:2])[:1], model(x_NCHW)[:1]
    assert not torch.allclose(alone, among, atol=1e-2)  # ... a sample's output depends on its neighbours
    assert not torch.equal(model[1].running_mean, network()[1].running_mean)


def test_ours_leaves_them_and_keeps_samples_apart() -> None:
    model, x_NCHW, rows_N = network(), images(8), torch.arange(8)
    together = mc_dropout(model, [(x_NCHW, rows_N)], passes=10, seed=0)
    apart = mc_dropout(model, [(x_NCHW[at : at + 1], rows_N[at : at + 1]) for at in range(8)], passes=10, seed=0)
    np.testing.assert_allclose(apart.mutual_information_N, together.mutual_information_N, atol=1e-6)
    assert torch.equal(model[1].running_mean, network()[1].running_mean)
    assert int(model[1].num_batches_tracked) == 0


def test_the_guard_trips_when_a_layer_leaves_eval_mode() -> None:
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x_NCHW: Tensor) -> Tensor:
            self.net.train()  # the published way
            return self.net(x_NCHW)

    with pytest.raises(RuntimeError, match=r"running statistics .* changed .*'net\.1\.running_mean'"):
        mc_dropout(Sly(), [(images(8), torch.arange(8))], passes=3, seed=0)
