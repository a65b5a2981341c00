"""Parameter groups, and LARS against a loop in float64."""

import pytest
import torch
from torch import nn

from ssl_sat.optim import OPTIMIZERS, build_optimizer
from ssl_sat.optim.lars import LARS
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.spec import ConfigError


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).double()


def test_lars_equals_a_loop():
    net = network()
    decay = [p for p in net.parameters() if p.ndim > 1]
    spared = [p for p in net.parameters() if p.ndim == 1]
    lars = LARS(
        [{"params": decay, "weight_decay": 0.01}, {"params": spared, "use_trust": False}],
        lr=0.5,
        momentum=0.9,
        trust=0.02,
    )
    weights = [p.detach().clone() for p in decay + spared]
    velocity = [torch.zeros_like(w) for w in weights]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for k, p in enumerate(decay + spared):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            is_decay = k < len(decay)
            u = p.grad + (0.01 * weights[k] if is_decay else 0.0)
            trust = 1.0
            if is_decay and u.norm() > 0 and weights[k].norm() > 0:
                trust = 0.02 * (weights[k].norm() / u.norm()).item()
            velocity[k] = 0.9 * velocity[k] + 0.5 * trust * u
            weights[k] = weights[k] - velocity[k]
        lars.step()
        for p, expected in zip(decay + spared, weights, strict=True):
            torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-13)


def test_lars_without_gradient_or_weight_stays_finite():
    still, zero = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.zeros(2, 2))
    still.grad, zero.grad = torch.zeros(2, 2), torch.ones(2, 2)
    LARS([still, zero], lr=0.5, momentum=0.0).step()
    assert torch.equal(still, torch.ones(2, 2))
    assert torch.equal(zero, torch.full((2, 2), -0.5))


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_norms_and_biases_do_not_decay(name):
    net = network()
    spec = OptimSpec(name=name, lr=0.1, weight_decay=0.5, scale="none")
    optimizer = build_optimizer(spec, net.named_parameters(), 64)
    before = {key: value.detach().clone() for key, value in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for key, value in net.named_parameters():
        assert torch.equal(value, before[key]) == (value.ndim == 1), key


def test_rate_follows_the_global_batch_and_groups_scale():
    net = network()
    spec = OptimSpec(name="sgd", lr=0.1, base_batch=256, scale="linear")
    groups = [
        {"named_params": list(net[0].named_parameters()), "lr_scale": 0.5},
        {"named_params": list(net[3].named_parameters())},
    ]
    optimizer = build_optimizer(spec, groups, 1024)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.2, 0.4, 0.4])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0.0, 1e-4, 0.0]


def test_tokens_are_spared_and_frozen_parameters_left_out():
    token, frozen = nn.Parameter(torch.ones(1, 1, 8)), nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = build_optimizer(OptimSpec(), [("trunk.cls_token", token), ("w", frozen)], 256)
    assert [(g["name"], len(g["params"])) for g in optimizer.param_groups] == [("spared", 1)]
    with pytest.raises(ValueError, match="trainable"):
        build_optimizer(OptimSpec(), [("w", frozen)], 256)


def test_unknown_optimiser_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'lars'"):
        OPTIMIZERS.parse({"name": "larz"})


@pytest.mark.parametrize("theirs", ["timm", "lightly"])
def test_lars_equals_other_peoples(theirs):
    """Without decay and at a constant rate, where all agree: they take |g| + decay |w| for |g + decay w|, and keep the
    rate out of the momentum buffer, unlike SimCLR's own optimiser."""
    ours, other = network(), network()
    if theirs == "timm":
        from timm.optim import Lars

        reference = Lars(other.parameters(), lr=0.4, momentum=0.9, trust_coeff=0.02, eps=0.0, always_adapt=True)
    else:
        from lightly.utils.lars import LARS as Lightly  # noqa: N811

        decay = 1e-300  # it adapts only where there is some
        reference = Lightly(
            other.parameters(), lr=0.4, momentum=0.9, trust_coefficient=0.02, eps=0.0, weight_decay=decay
        )
    lars = LARS(ours.parameters(), lr=0.4, momentum=0.9, trust=0.02)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for p, q in zip(ours.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            q.grad = p.grad.clone()
        lars.step()
        reference.step()
    for p, q in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
