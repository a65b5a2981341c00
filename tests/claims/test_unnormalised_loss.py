"""Published mistake: NT-Xent without L2 normalisation; its printed losses lie under the mathematical floor."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fakes.classifiers import write_pack, write_pictures
from torch import Tensor

from ssl_sat.losses.nt_xent import nt_xent, nt_xent_collapse, nt_xent_floor
from ssl_sat.methods.simclr import SimCLR
from ssl_sat.spec import UserError

N, TAU = 64, 0.5


def published(z_VND: Tensor, temperature: float) -> Tensor:
    """The study's loss: dot products in the place of cosines."""
    z_MD = z_VND.flatten(0, 1)
    similarity_MM = (z_MD @ z_MD.T / temperature).fill_diagonal_(-torch.inf)
    partner_M = torch.arange(len(z_MD)).roll(len(z_MD) // 2)
    return torch.nn.functional.cross_entropy(similarity_MM, partner_M)


def grown(z_VND: Tensor, temperature: float, *, gather: bool = False) -> Tensor:
    """The study's loss of embeddings that are four long, as training on it makes them."""
    return published(4 * torch.nn.functional.normalize(z_VND, dim=-1), temperature)


def simplex() -> Tensor:
    """Two equal views of 64 patches at the corners of a regular simplex: nothing has a smaller NT-Xent."""
    corners_ND = torch.eye(N, dtype=torch.float64) - 1 / N
    return torch.stack([corners_ND / corners_ND.norm(dim=1, keepdim=True)] * 2)


@pytest.mark.parametrize("length", [1.0, 1.5, 2.0, 3.0])
def test_length_alone_takes_the_published_loss_under_the_floor(length: float) -> None:
    floor = nt_xent_floor(N, TAU)
    assert round(floor, 3) == 2.863
    gap = length**2 * N / ((N - 1) * TAU)
    by_hand = math.log1p((2 * N - 2) * math.exp(-gap))
    assert float(published(length * simplex(), TAU)) == pytest.approx(by_hand, abs=1e-12)
    assert float(nt_xent(length * simplex(), TAU)) == pytest.approx(floor, abs=1e-12)
    assert (by_hand < floor - 1) == (length > 1)


def test_trained_on_it_embeddings_grow_and_the_printed_loss_is_impossible() -> None:
    generator = torch.Generator().manual_seed(0)
    z_VND = torch.randn(2, N, 128, generator=generator).div_(128**0.5).requires_grad_()
    optimizer = torch.optim.Adam([z_VND], lr=0.05)
    assert float(published(z_VND.detach(), TAU)) == pytest.approx(math.log(2 * N - 1), abs=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = published(z_VND, TAU)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01 < nt_xent_floor(N, TAU)
    assert float(z_VND.detach().norm(dim=-1).mean()) > 2
    assert float(nt_xent(z_VND.detach(), TAU)) > nt_xent_floor(N, TAU)


def test_a_run_under_its_floor_stops_and_names_both(tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "own", ("field", "lake"), 20)
    pack = write_pack(tmp_path, tmp_path / "own", split="none")
    run = (f"pack={pack.path}", f"outputs={tmp_path}", "encoder=cnn", "image_size=16", "batch_size=8", "epochs=2")
    sound = make("pretrain", *run, "augment=simclr_rgb")
    assert sound.metrics["loss_floor_last_epoch"] == pytest.approx(nt_xent_floor(8, TAU), abs=1e-6)
    assert sound.metrics["loss_collapse_last_epoch"] == pytest.approx(nt_xent_collapse(8), abs=1e-6)
    above = sound.metrics["loss_last_epoch"] - sound.metrics["loss_floor_last_epoch"]
    assert sound.metrics["loss_above_floor_last_epoch"] == pytest.approx(above, abs=1e-9) and above > 0.5
    monkeypatch.setattr(SimCLR, "contrast", staticmethod(grown))
    with pytest.raises(UserError, match=r"the loss is 0\.\d{4} at .*, under 0\.8853, the smallest value that it can"):
        make("pretrain", *run, "augment=none", "encoder.dropout=0", "seed=1")
    assert not list((tmp_path / "pretrain").glob("*s1-????????"))
