"""NT-Xent against the paper's algorithm in float64, an independent library, closed forms and symmetries."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss

from ssl_sat.losses import tiles
from ssl_sat.losses.nt_xent import nt_xent, nt_xent_collapse, nt_xent_floor


def paper_algorithm_1(z_VND: torch.Tensor, temperature: float) -> torch.Tensor:
    """Chen et al. 2020, algorithm 1, one pair of indices at a time; rows 2k-1 and 2k are the views of sample k."""
    pairs = z_VND.shape[1]
    z = torch.stack([z_VND[view, k] for k in range(pairs) for view in (0, 1)]).double()
    s = torch.stack([torch.stack([a @ b / (a.norm() * b.norm()) for b in z]) for a in z])

    def term(i: int, j: int) -> torch.Tensor:
        others = torch.stack([torch.exp(s[i, k] / temperature) for k in range(2 * pairs) if k != i])
        return -torch.log(torch.exp(s[i, j] / temperature) / others.sum())

    return sum(term(2 * k, 2 * k + 1) + term(2 * k + 1, 2 * k) for k in range(pairs)) / (2 * pairs)


def embeddings(pairs: int, features: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    z = torch.randn(2, pairs, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    return z.to(dtype).requires_grad_()


@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5, 1.0])
def test_equals_the_paper_algorithm_in_value_and_gradient(temperature):
    ours, paper = embeddings(7, 5), embeddings(7, 5)
    loss, expected = nt_xent(ours, temperature), paper_algorithm_1(paper, temperature)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, paper.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5])
@pytest.mark.parametrize("tile", [3, 8, 512])
def test_tiles_change_nothing(monkeypatch, tile, temperature):
    monkeypatch.setattr(tiles, "tile_size", lambda device: tile)
    ours, dense = embeddings(10, 6), embeddings(10, 6)
    u = torch.nn.functional.normalize(dense.flatten(0, 1), dim=-1)
    logits = (u @ u.T / temperature).masked_fill(torch.eye(20, dtype=torch.bool), -math.inf)
    expected = torch.nn.functional.cross_entropy(logits, (torch.arange(20) + 10) % 20)
    loss = nt_xent(ours, temperature)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, dense.grad, rtol=1e-9, atol=1e-11)


def test_equals_lightly():
    ours, theirs = embeddings(96, 32, torch.float32), embeddings(96, 32, torch.float32)
    loss, expected = nt_xent(ours, 0.2), NTXentLoss(temperature=0.2)(theirs[0], theirs[1])
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_float32_gradient_is_close_to_float64(temperature):
    single, double = embeddings(700, 64, torch.float32), embeddings(700, 64)
    nt_xent(single, temperature).backward()
    nt_xent(double, temperature).backward()
    error = (single.grad.double() - double.grad).norm() / double.grad.norm()
    assert error < 1e-6


@pytest.mark.parametrize("temperature", [0.015, 0.3])  # running and constant maximum
def test_gradcheck(temperature):
    torch.autograd.gradcheck(lambda z: nt_xent(z, temperature), (embeddings(4, 3),), atol=1e-6)


def test_swapping_views_and_permuting_samples_change_nothing():
    z = embeddings(40, 16)
    loss = nt_xent(z, 0.1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(nt_xent(z.flip(0), 0.1), loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(nt_xent(z[:, order], 0.1), loss, rtol=1e-13, atol=0)
    assert not torch.allclose(nt_xent(torch.stack([z[0], z[1, order]]), 0.1), loss)  # pairs torn apart


def test_length_of_embeddings_does_not_matter():
    z = embeddings(16, 8)
    torch.testing.assert_close(nt_xent(z * 1e3, 0.5), nt_xent(z, 0.5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_collapse_value(temperature):
    z = torch.ones(2, 64, 8, dtype=torch.float64)
    assert nt_xent(z, temperature).item() == pytest.approx(math.log(127), abs=1e-12)
    assert nt_xent_collapse(64) == pytest.approx(math.log(127), abs=0)


@pytest.mark.parametrize("pairs, temperature", [(2, 0.5), (8, 0.1), (64, 0.5)])
def test_floor_is_attained_by_the_simplex(pairs, temperature):
    corners = torch.eye(pairs, dtype=torch.float64) - 1.0 / pairs
    assert nt_xent(torch.stack([corners, corners]), temperature).item() == pytest.approx(
        nt_xent_floor(pairs, temperature), rel=1e-12
    )


def test_floor_of_the_study_and_that_nothing_lies_under_it():
    assert nt_xent_floor(64, 0.5) == pytest.approx(2.863, abs=5e-4)
    assert nt_xent_floor(1, 0.5) == 0.0 == nt_xent(torch.ones(2, 1, 4), 0.5).item()
    z = embeddings(6, 8)
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = nt_xent(z, 0.5)
        loss.backward()
        optimizer.step()
    floor = nt_xent_floor(6, 0.5)
    assert floor - 1e-12 <= loss.item() < floor + 1e-3


def test_autocast_does_not_lower_the_precision():
    z = embeddings(128, 32, torch.float32)
    expected = nt_xent(z, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z, 0.07)
        loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    reference = embeddings(128, 32)
    nt_xent(reference, 0.07).backward()
    assert (z.grad.double() - reference.grad).norm() / reference.grad.norm() < 1e-5


@pytest.mark.parametrize("dtype, rounding", [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_16_bit_input_is_computed_in_float32(dtype, rounding, temperature):
    z = embeddings(64, 16, dtype)
    wide = z.detach().float().requires_grad_()
    loss, expected = nt_xent(z, temperature), nt_xent(wide, temperature)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32 and z.grad.dtype == dtype
    assert loss.item() == expected.item()
    assert (z.grad.float() - wide.grad).abs().max() <= rounding * wide.grad.abs().max()  # rounded once, at the end


def test_half_precision_neither_overflows_nor_underflows():
    z = embeddings(16, 8)
    for scale in (3e3, 1e-3):  # squares would be above 65,504, and below 6e-8
        short = (z.detach() * scale).half()
        expected = nt_xent(short.double(), 0.05)
        assert nt_xent(short, 0.05).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.015, 0.3])
@pytest.mark.parametrize("tile", [4, 512])
def test_more_views_are_the_mean_over_their_partners(monkeypatch, temperature, tile):
    """Khosla et al. 2020, equation 2: each patch a class of its own, the log outside the mean over the partners."""
    monkeypatch.setattr(tiles, "tile_size", lambda device: tile)
    z = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, loop = z.clone().requires_grad_(), z.clone().requires_grad_()
    u = torch.nn.functional.normalize(loop, dim=-1)
    terms = []
    for v in range(3):
        for n in range(5):
            s = [(w, m, u[v, n] @ u[w, m] / temperature) for w in range(3) for m in range(5) if (w, m) != (v, n)]
            every = torch.logsumexp(torch.stack([value for *_, value in s]), 0)
            terms += [(every - value) / 2 for w, m, value in s if m == n]
    expected = torch.stack(terms).sum() / 15
    loss = nt_xent(ours, temperature)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, loop.grad, rtol=1e-9, atol=1e-11)
    corners = torch.eye(6, dtype=torch.float64) - 1 / 6
    simplex = nt_xent(corners.expand(4, 6, 6), temperature).item()
    assert simplex == pytest.approx(nt_xent_floor(6, temperature, views=4), rel=1e-12)
    assert nt_xent(torch.ones(4, 6, 2), temperature).item() == pytest.approx(nt_xent_collapse(6, views=4), rel=1e-5)


def test_memory_is_linear_in_the_batch():
    """What is saved for backward: the unit embeddings, their own storage, and one number a row."""
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    sizes = []
    for pairs in (256, 512):
        saved.clear()
        z = torch.randn(2, pairs, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = nt_xent(z, 0.5)
        sizes.append(sum(saved.values()))
        assert sizes[-1] <= 2 * pairs * (3 * 16 + 4) * 4  # embeddings, unit embeddings, norms, log-sums
        loss.backward()
    assert sizes[1] <= 2.2 * sizes[0]


@pytest.mark.parametrize("shape", [(1, 4, 5), (8, 4)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        nt_xent(torch.zeros(shape), 0.5)
