"""DCL against the paper's equation in float64, an independent library, closed forms and symmetries."""

import math

import pytest
import torch
from lightly.loss import DCLLoss

from ssl_sat.losses import tiles
from ssl_sat.losses.dcl import dcl, dcl_collapse, dcl_floor
from ssl_sat.losses.nt_xent import nt_xent


def equation_6(z_VND: torch.Tensor, temperature: float) -> torch.Tensor:
    """Yeh et al. 2022, equation 6 (unweighted), one pair of indices at a time; mean over patches i and views k."""
    views, pairs, _ = z_VND.shape
    z = z_VND.double()
    z = z / z.norm(dim=-1, keepdim=True)
    terms = []
    for i in range(pairs):
        for k in range(views):
            others = [(z[k, i] @ z[v, j] / temperature).exp() for v in range(views) for j in range(pairs) if j != i]
            agree = sum(z[k, i] @ z[v, i] / temperature for v in range(views) if v != k) / (views - 1)
            terms.append(-agree + torch.log(torch.stack(others).sum()))
    return torch.stack(terms).mean()


def embeddings(pairs: int, features: int, views: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    z = torch.randn(views, pairs, features, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    return z.to(dtype).requires_grad_()


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5])
@pytest.mark.parametrize("tile", [3, 512])
def test_equals_the_equation_in_value_and_gradient(monkeypatch, views, temperature, tile):
    monkeypatch.setattr(tiles, "tile_size", lambda device: tile)
    ours, paper = embeddings(7, 5, views), embeddings(7, 5, views)
    loss, expected = dcl(ours, temperature), equation_6(paper, temperature)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, paper.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_equals_lightly(temperature):
    ours, theirs = embeddings(96, 32, dtype=torch.float32), embeddings(96, 32, dtype=torch.float32)
    loss, expected = dcl(ours, temperature), DCLLoss(temperature=temperature)(theirs[0], theirs[1])
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.015, 0.3])  # running and constant maximum
def test_gradcheck(temperature):
    torch.autograd.gradcheck(lambda z: dcl(z, temperature), (embeddings(4, 3),), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.5])
def test_float32_gradient_is_close_to_float64(temperature):
    single, double = embeddings(700, 64, dtype=torch.float32), embeddings(700, 64)
    dcl(single, temperature).backward()
    dcl(double, temperature).backward()
    error = (single.grad.double() - double.grad).norm() / double.grad.norm()
    assert error < (1e-6 if temperature >= 0.05 else 1e-5)


def test_swapping_views_and_permuting_patches_change_nothing():
    z = embeddings(40, 16)
    loss = dcl(z, 0.1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(dcl(z.flip(0), 0.1), loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(dcl(z[:, order], 0.1), loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(dcl(z * 1e3, 0.1), loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("views", [2, 3])
def test_collapse_value(temperature, views):
    z = torch.ones(views, 64, 8, dtype=torch.float64)
    assert dcl(z, temperature).item() == pytest.approx(math.log(views * 63), abs=1e-12)
    assert dcl_collapse(64, views) == math.log(views * 63)


@pytest.mark.parametrize("pairs, temperature", [(2, 0.5), (8, 0.1), (64, 0.5)])
def test_floor_is_attained_by_the_simplex(pairs, temperature):
    corners = torch.eye(pairs, dtype=torch.float64) - 1.0 / pairs
    assert dcl(torch.stack([corners, corners]), temperature).item() == pytest.approx(
        dcl_floor(pairs, temperature), rel=1e-12
    )


def test_nothing_lies_under_the_floor_and_descent_reaches_it():
    z = embeddings(6, 8)
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = dcl(z, 0.5)
        loss.backward()
        optimizer.step()
    assert dcl_floor(6, 0.5) - 1e-12 <= loss.item() < dcl_floor(6, 0.5) + 1e-3


def test_the_positive_pulls_with_its_full_weight_where_nt_xent_has_stopped():
    """For an easy positive and tau = .1 the gradient of NT-Xent nearly vanishes (the paper's section 3)."""
    u = torch.eye(4, 8, dtype=torch.float64)
    tilted = u + 0.3 * torch.eye(4, 8, dtype=torch.float64).roll(4, 1)
    norms = []
    for loss in (nt_xent, dcl):
        z = torch.stack([u, tilted]).requires_grad_()
        loss(z, 0.1).backward()
        norms.append(z.grad.norm().item())
    assert norms[0] < 0.01 * norms[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_input_and_autocast_are_computed_in_float32(dtype):
    z = embeddings(64, 16, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dcl(z, 0.05)
    loss.backward()
    assert loss.dtype == torch.float32 and z.grad.dtype == dtype
    assert loss.item() == dcl(z.detach().float(), 0.05).item()


def test_one_patch_has_no_negatives():
    with pytest.raises(ValueError, match="two patches"):
        dcl(torch.ones(2, 1, 4), 0.5)
