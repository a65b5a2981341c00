"""Every registered method, on a small encoder."""

import pytest
import torch

from ssl_sat.bands import S2_L2A
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods import METHODS


def make(name: str, seed: int = 0):
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn"}), bands=S2_L2A, image_size=16, seed=1)
    return METHODS.build(METHODS.parse({"name": name}), encoder=encoder, seed=seed)


def views(method) -> torch.Tensor:
    return torch.randn(method.num_views, 6, 12, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", METHODS.names())
def test_loss_reaches_every_parameter_and_logs_are_scalars(name):
    method = make(name).train()
    loss, logs = method.loss(views(method))
    assert loss.shape == () and torch.isfinite(loss)
    assert "embedding_std" in logs
    for key, value in logs.items():
        assert value.shape == () and torch.isfinite(value) and not value.requires_grad, key
    loss.backward()
    assert [key for key, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", METHODS.names())
def test_head_depends_on_the_seed_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = make(name, 3), make(name, 3), make(name, 4)
    assert torch.equal(torch.get_rng_state(), before)
    state, same, different = first.state_dict(), second.state_dict(), other.state_dict()
    assert all(torch.equal(state[key], same[key]) for key in state)
    assert any(not torch.equal(state[key], different[key]) for key in state)


@pytest.mark.parametrize("name", METHODS.names())
def test_the_loss_falls_when_trained(name):
    method = make(name).train()
    x = views(method) * 0.3 + views(method)[:1]  # views that resemble each other
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, _ = method.loss(x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
