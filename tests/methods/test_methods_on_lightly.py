"""Objectives against lightly's modules in float64, and at the points where their values are known."""

import math

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from torch import nn
from torch.nn import functional

from ssl_sat.bands import S2_RGB
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods import METHODS
from ssl_sat.methods.barlow import barlow_floor
from ssl_sat.methods.moco import moco_floor
from ssl_sat.optim.ema import cosine_decay

PATCHES = 12


def make(name: str, **values):
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn", "dropout": 0.0}), bands=S2_RGB, image_size=8, seed=0)
    return METHODS.build(METHODS.parse({"name": name, **values}), encoder=encoder, seed=0)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(method, *rows: torch.Tensor) -> float:
    return method.objective(torch.stack(rows))[0].item()


# BYOL and SimSiam: rows are projections, predictions and targets of both views.


@pytest.mark.parametrize(("name", "offset", "slope"), [("byol", 2.0, 2.0), ("simsiam", 0.0, 1.0)])
def test_asymmetric_losses_equal_lightlys_over_both_ways(name, offset, slope):
    method, rows = make(name, head_hidden=16), normal(6, PATCHES, 5)
    _, _, p0, p1, t0, t1 = rows
    cosine = NegativeCosineSimilarity()
    expected = offset + slope * 0.5 * (cosine(p0, t1) + cosine(p1, t0)).item()
    assert value(method, *rows) == pytest.approx(expected, rel=1e-12)


def test_byol_is_the_squared_distance_of_unit_vectors():
    method, z, other = make("byol", head_hidden=16), normal(PATCHES, 5), normal(PATCHES, 5, seed=1)
    assert value(method, z, z, z, z, z, z) == pytest.approx(0, abs=1e-12)
    assert value(method, z, z, 3 * z, z, z, 0.1 * z) == pytest.approx(0, abs=1e-12)  # lengths do not matter
    assert value(method, z, z, z, z, -z, -z) == pytest.approx(4, rel=1e-12)
    apart = functional.normalize(z, dim=1) - functional.normalize(other, dim=1)
    assert value(method, z, z, z, z, other, other) == pytest.approx(apart.square().sum(1).mean().item(), rel=1e-12)


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_each_view_is_held_against_the_other_and_targets_get_no_gradient(name):
    method, (a, b) = make(name, head_hidden=16), normal(2, PATCHES, 5)
    crossed = torch.stack([a, b, b, a, a, b]).requires_grad_()  # what view 0 predicts is view 1's target
    loss, logs = method.objective(crossed)
    assert logs["positive_similarity"].item() == pytest.approx(1, rel=1e-12)
    loss, _ = method.objective(shifted := (crossed.detach() + normal(*crossed.shape, seed=3)).requires_grad_())
    loss.backward()
    assert shifted.grad[2:4].abs().min() > 0 and shifted.grad[:2].abs().max() == shifted.grad[4:].abs().max() == 0


def test_byols_target_is_the_average_and_sees_the_same_images():
    method = make("byol", head_hidden=16, momentum=0.5).train()
    x = normal(2, PATCHES, 3, 8, 8).float()
    z = method.embed(x)
    assert torch.equal(z[4:], z[:2].detach())  # it starts as a copy
    first = {name: p.clone() for name, p in method.target.named_parameters()}
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    method.after_step(1, 4)
    decay = cosine_decay(1, 4, 0.5)
    for name, p in method.target.named_parameters():
        moved = (1 - decay) if ".0." in f".{name}" and name.startswith("network.0.") else 0.0
        torch.testing.assert_close(p, first[name] + moved)
    method.after_step(4, 4)  # the decay has reached 1
    assert all(not p.requires_grad for p in method.target.parameters())
    assert cosine_decay(4, 4, 0.5) == 1.0


# MoCo


def test_moco_equals_lightly_with_the_same_queue():
    method, lightly = make("moco", queue=32, head_out=6), NTXentLoss(0.2, memory_bank_size=(32, 6))
    lightly.memory_bank.bank = method.queue.double()
    q, k = normal(2, PATCHES, 6)
    assert value(method, q, k) == pytest.approx(lightly(q, k).item(), rel=1e-12)


def test_moco_with_known_queues():
    method, (q, k) = make("moco", queue=7, head_out=6, temperature=0.3).eval(), normal(2, PATCHES, 6)
    u = functional.normalize(q[:1], dim=1)
    one = u.expand(PATCHES, -1)
    method.queue.copy_(u.expand(7, -1))
    loss, logs = method.objective(torch.stack([one, one]))
    assert loss.item() == pytest.approx(math.log(8), rel=1e-6) and logs["loss_collapse"].item() == pytest.approx(
        math.log(8)
    )
    method.queue.neg_()
    loss, logs = method.objective(torch.stack([one, one]))
    assert (
        loss.item() == pytest.approx(moco_floor(7, 0.3), rel=1e-6) == pytest.approx(logs["loss_floor"].item(), rel=1e-6)
    )
    method.queue.zero_()  # as good as empty: every key of the queue at a right angle
    cosine = functional.cosine_similarity(q, k) / 0.3
    expected = (torch.log(cosine.exp() + 7) - cosine).mean().item()
    assert value(method, q, k) == pytest.approx(expected, rel=1e-12)


def test_the_queue_takes_keys_in_turn_and_wraps_without_loss():
    method = make("moco", queue=10, head_out=4).train()
    batches = [normal(2, 4, 4, seed=seed) for seed in range(4)]
    for z in batches:
        method.objective(z)
    keys = functional.normalize(torch.cat([z[1] for z in batches]), dim=1).float()
    expected = torch.empty(10, 4)
    for at, key in enumerate(keys):
        expected[at % 10] = key
    torch.testing.assert_close(method.queue, expected)
    assert method.position.item() == 16 % 10
    method.eval().objective(batches[0])
    torch.testing.assert_close(method.queue, expected)  # only training moves it
    method.train().objective(normal(2, 25, 4, seed=9))  # more than it holds: the last ones
    held = {tuple(row) for row in method.queue.tolist()}
    last = functional.normalize(normal(2, 25, 4, seed=9)[1], dim=1).float()[-10:]
    assert held == {tuple(row) for row in last.tolist()}


def test_a_key_depends_on_its_own_patch_alone_even_in_training():
    method, x = make("moco", queue=8, head_hidden=16).train(), normal(2, PATCHES, 3, 8, 8).float()
    for _ in range(3):
        method.embed(x)  # statistics move away from 0 and 1
    method.after_step(1, 9)
    with torch.no_grad():
        whole, part = method.embed(x)[1], method.embed(x[:, :5])[1]
    torch.testing.assert_close(part, whole[:5], rtol=1e-5, atol=1e-6)
    assert not method.keys.network.training and method.encoder.training
    own, theirs = dict(method.encoder.named_buffers()), dict(method.keys.network[0].named_buffers())
    method.after_step(2, 9)
    assert all(torch.equal(own[name], theirs[name]) for name in own)


# Barlow Twins


def test_barlow_equals_lightly():
    z = normal(2, 20, 6)
    assert value(make("barlow", head_out=6, redundancy_weight=0.02), *z) == pytest.approx(
        BarlowTwinsLoss(0.02)(*z).item(), rel=1e-12
    )


def test_barlow_at_known_points():
    method = make("barlow", head_out=4)
    hadamard = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
    z = torch.kron(torch.kron(hadamard, hadamard), hadamard)[:, 1:5]  # (8, 4): mean 0, uncorrelated
    assert value(method, z, z) == pytest.approx(0, abs=1e-8)  # batch norm divides by sqrt(var + 1e-5)
    assert value(method, z, -z) == pytest.approx(4 * 4, rel=1e-4)
    assert value(method, z, 5 * z + 3) == pytest.approx(0, abs=1e-8)
    same = z[:, :1].expand(-1, 4)
    assert value(method, same, same) == pytest.approx(5e-3 * 12, rel=1e-4)  # features all alike
    constant = torch.ones(8, 4, dtype=torch.float64)
    loss, logs = method.objective(torch.stack([constant, constant]))
    assert loss.item() == pytest.approx(4) == logs["loss_collapse"].item()


@pytest.mark.parametrize("weight", [5e-3, 0.3])
def test_no_batch_gets_below_the_floor_of_barlow(weight):
    """More features than patches: gradient descent on the projections themselves ends above the bound, and near it."""
    method, z = make("barlow", head_out=24, redundancy_weight=weight), normal(2, 7, 24).requires_grad_()
    optimizer = torch.optim.LBFGS([z], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = method.objective(z)[0]
        loss.backward()
        return loss

    optimizer.step(closure)
    reached, floor = method.objective(z)[0].item(), barlow_floor(7, 24, weight)
    k = weight * 3
    assert floor == pytest.approx(24 * k / (1 + k)) and floor <= reached * (1 + 1e-9)
    assert reached < 1.1 * floor
    assert barlow_floor(25, 24, weight) == 0.0


# VICReg


def test_vicreg_equals_lightly_and_the_terms_add_up():
    z = normal(2, 20, 6)
    loss, logs = make("vicreg", head_out=6).objective(z)
    assert loss.item() == pytest.approx(VICRegLoss()(*z).item(), rel=1e-12)
    first, second = z
    assert logs["invariance"].item() == pytest.approx((first - second).square().mean().item(), rel=1e-12)
    spread = [functional.relu(1 - (v.var(0) + 1e-4).sqrt()).mean() for v in z]
    assert logs["variance"].item() == pytest.approx((sum(spread) / 2).item(), rel=1e-12)
    squares = [torch.cov(v.T).square() for v in z]
    off = sum((c.sum() - c.diagonal().sum()) / 6 for c in squares)
    assert logs["covariance"].item() == pytest.approx(off.item(), rel=1e-12)


def test_vicreg_at_known_points():
    method = make("vicreg", head_out=4)
    hadamard = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
    z = torch.kron(torch.kron(hadamard, hadamard), hadamard)[:, 1:5]
    assert value(method, z, z) == pytest.approx(0, abs=1e-12)  # alike, spread by 1 and more, uncorrelated
    collapsed = torch.full((8, 4), 0.3, dtype=torch.float64)
    assert value(method, collapsed, collapsed) == pytest.approx(25 * (1 - 1e-2), rel=1e-9)
    assert value(method, z, z + 2) == pytest.approx(25 * 4, rel=1e-12)  # nothing but the invariance sees a shift


@pytest.mark.parametrize("name", ["byol", "simsiam", "moco", "barlow", "vicreg"])
def test_heads_end_in_the_widths_asked_for(name):
    method = make(name, head_hidden=24, head_out=10)
    with torch.no_grad():
        z = method.eval().embed(normal(2, 4, 3, 8, 8).float())
    assert z.shape == ({"byol": 6, "simsiam": 6}.get(name, 2), 4, 10)
    assert next(layer for layer in method.head.layers if isinstance(layer, nn.Linear)).out_features == 24
