"""The average in closed form; what becomes of buffers; that it resumes and takes no gradient."""

import copy
import math

import pytest
import torch
from torch import nn

from ssl_sat.optim import build_optimizer
from ssl_sat.optim.ema import EMA, cosine_decay
from ssl_sat.optim.spec import OptimSpec


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def fill(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.fill_(value)


def test_the_average_is_the_geometric_sum():
    net = network()
    ema = EMA(net)
    start = [p.clone() for p in ema.network.parameters()]
    decay, values = 0.9, [1.0, -2.0, 5.0, 0.5]
    for value in values:
        fill(net, value)
        ema.update(net, decay)
    for first, p in zip(start, ema.network.parameters(), strict=True):
        later = sum((1 - decay) * decay ** (len(values) - 1 - k) * value for k, value in enumerate(values))
        torch.testing.assert_close(p, decay ** len(values) * first + later, rtol=1e-12, atol=1e-14)


def test_decay_1_keeps_and_decay_0_takes():
    net = network()
    ema = EMA(net)
    before = copy.deepcopy(ema.state_dict())
    fill(net, 3.0)
    ema.update(net, 1.0)
    assert all(torch.equal(p, before[f"network.{name}"]) for name, p in ema.network.named_parameters())
    ema.update(net, 0.0)
    assert all(torch.equal(p, torch.full_like(p, 3.0)) for p in ema.network.parameters())
    with pytest.raises(ValueError, match="between 0 and 1"):
        ema.update(net, 1.1)


@pytest.mark.parametrize("buffers, mean, count", [("copy", 7.0, 7), ("own", 0.0, 0)])
def test_buffers_are_copied_or_left_alone_and_never_averaged(buffers, mean, count):
    net = network()
    ema = EMA(net, buffers=buffers)
    fill(net, 7.0)
    ema.update(net, 0.5)
    assert ema.network[1].running_mean.tolist() == [mean] * 4
    assert ema.network[1].num_batches_tracked.item() == count and ema.network[1].num_batches_tracked.dtype == torch.long


def test_it_resumes_from_its_state():
    net, other = network(), network()
    ema, resumed = EMA(net), EMA(other)
    fill(net, 2.0)
    ema.update(net, 0.7)
    resumed.load_state_dict(ema.state_dict())
    fill(net, -1.0)
    for each in (ema, resumed):
        each.update(net, 0.7)
    assert all(torch.equal(a, b) for a, b in zip(ema.state_dict().values(), resumed.state_dict().values(), strict=True))


def test_optimisers_leave_it_out_and_its_output_has_no_gradient():
    owner = nn.ModuleDict({"online": network(), "target": EMA(network())})
    groups = build_optimizer(OptimSpec(), owner.named_parameters(), 256).param_groups
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in owner["online"].parameters()}
    assert not owner["target"](torch.ones(2, 3, dtype=torch.float64)).requires_grad


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="architecture"):
        EMA(network()).update(nn.Linear(3, 4).double(), 0.5)


def test_byols_schedule():
    assert cosine_decay(0, 100, 0.996) == pytest.approx(0.996)
    assert cosine_decay(50, 100, 0.996) == pytest.approx(0.998)
    assert cosine_decay(25, 100, 0.9) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)
    assert cosine_decay(100, 100, 0.996) == cosine_decay(101, 100, 0.996) == 1.0
