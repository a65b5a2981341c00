"""Steps in several forward passes, and in chunks: what they equal, what they count, that they resume to the bit."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fakes.packs import write
from torch import nn

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.data.packed import Pack
from ssl_sat.losses.nt_xent import nt_xent
from ssl_sat.methods.contract import Method
from ssl_sat.optim.ema import EMA
from ssl_sat.optim.schedule import warmup_cosine
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.spec import ConfigError
from ssl_sat.training import engine
from ssl_sat.training.callbacks import read_history
from ssl_sat.training.pretraining import PretrainModule
from ssl_sat.training.spec import TrainerSpec

BANDS = ("B04", "B03", "B02")
TRAINER = TrainerSpec(accelerator="cpu", progress=False, tensorboard=False, checkpoint_every_n_steps=1)
EPOCHS, BATCH, PATCHES = 2, 8, 26  # three steps an epoch; two patches are left over


class Little(Method):
    """A method whose objective is a mean over patches (or NT-Xent), with a moving average that follows its steps."""

    num_views = 2

    def __init__(self, contrastive: bool) -> None:
        super().__init__()
        self.contrastive = contrastive
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts = [nn.Conv2d(3, 6, 3, stride=2), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 49, 8)]
            self.encoder = nn.Sequential(*parts)
        self.average = EMA(self.encoder)
        self.calls: list[tuple[int, int]] = []

    def embed(self, x_VNCHW: torch.Tensor) -> torch.Tensor:
        return self.encoder(x_VNCHW.flatten(0, 1)).unflatten(0, x_VNCHW.shape[:2])

    def objective(self, z_KND: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = nt_xent(z_KND, 0.2) if self.contrastive else (z_KND - 1).square().mean()
        return loss, {"patches": torch.tensor(float(z_KND.shape[1]))}

    def after_step(self, step: int, total: int) -> None:
        self.calls.append((step, total))
        self.average.update(self.encoder, 0.5)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return write(tmp_path_factory.mktemp("data") / "pack", PATCHES, groups=((BANDS, 16, 10.0),))


def module(pack: Pack, contrastive: bool = False, **changes) -> PretrainModule:
    views = Views(
        AugmentSpec(name="eo_light", crop_scale=(0.5, 1.0), flip_horizontal=0.5), [(BANDS, 16, 16)],
        bands=BANDS, scale=1e4, offset=0.0, mean_C=[3.3] * 3, std_C=[1.9] * 3, image_size=16,
    )  # fmt: skip
    optim = OptimSpec(name="sgd", lr=0.05, scale="none", warmup_epochs=0.5)
    return PretrainModule(Little(contrastive), views, pack, np.arange(PATCHES), optim, BATCH, 0, TRAINER, **changes)


def fitted(pack: Pack, out: Path, contrastive: bool = False, accumulate: int = 1, callbacks=(), **changes):
    out.mkdir(parents=True, exist_ok=True)
    run = module(pack, contrastive, accumulate=accumulate, **changes)
    engine.fit(run, TRAINER, out, epochs=EPOCHS, label="test", accumulate=accumulate, callbacks=callbacks)
    return run, read_history(out / "history.jsonl")


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.used: list[float] = []

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.used.append(optimizer.param_groups[0]["lr"])


def test_a_step_in_parts_equals_the_whole_where_the_objective_is_a_mean(pack, tmp_path):
    whole, rows = fitted(pack, tmp_path / "whole")
    rates = Rates()
    parts, in_parts = fitted(pack, tmp_path / "parts", accumulate=4, callbacks=[rates])
    for a, b in zip(parts.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert [row["step"] for row in in_parts] == [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in in_parts] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    assert {row["patches"] for row in in_parts} == {2.0} and {row["patches"] for row in rows} == {8.0}
    assert rates.used == pytest.approx([warmup_cosine(step, 6, 2, 0.05) for step in range(6)], abs=1e-12)
    assert rates.used[-1] == 0.0  # zero at the last step, steps counted and not forward passes
    assert parts.method.calls == whole.method.calls == [(step, 6) for step in range(1, 7)]


def test_fewer_negatives_make_another_objective(pack, tmp_path):
    """What docs/memory.md warns of: the loss of parts is lower, for it tells fewer patches apart."""
    _, whole = fitted(pack, tmp_path / "whole", contrastive=True)
    _, parts = fitted(pack, tmp_path / "parts", contrastive=True, accumulate=4)
    assert parts[0]["loss"] < whole[0]["loss"] - 0.5


def test_chunks_equal_the_whole_batch_with_all_its_negatives(pack, tmp_path):
    whole, rows = fitted(pack, tmp_path / "whole", contrastive=True)
    chunks, in_chunks = fitted(pack, tmp_path / "chunks", contrastive=True, cache_chunk=3)
    assert [row["loss"] for row in in_chunks] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    for a, b in zip(chunks.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    _, in_both = fitted(pack, tmp_path / "both", contrastive=True, cache_chunk=3, accumulate=2)
    _, in_halves = fitted(pack, tmp_path / "halves", contrastive=True, accumulate=2)
    assert [row["loss"] for row in in_both] == pytest.approx([row["loss"] for row in in_halves], rel=1e-5)


class Stop(pl.Callback):
    """Break off without warning after so many batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")


@pytest.mark.parametrize("changes, cuts", [
    ({"accumulate": 2}, (5, 3)),
    ({"accumulate": 4}, (5, 3)),
    ({"cache_chunk": 3}, (2, 3)),
], ids=["in 2", "in 4", "chunks"])  # fmt: skip
def test_a_run_that_was_cut_twice_ends_with_the_same_bits(pack, tmp_path, changes, cuts):
    """Cut in the midst of a step: the first time after 5 batches, the second after 3 more."""
    whole, rows = fitted(pack, tmp_path / "whole", contrastive=True, **changes)
    for after in cuts:
        with pytest.raises(RuntimeError, match="killed"):
            fitted(pack, tmp_path / "cut", contrastive=True, callbacks=[Stop(after)], **changes)
    cut, in_cut = fitted(pack, tmp_path / "cut", contrastive=True, **changes)
    assert len(rows) == 6 and in_cut == rows
    for (name, a), b in zip(cut.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(a, b), name  # the moving average among them


def test_a_batch_that_cannot_be_divided_is_refused(pack, tmp_path):
    with pytest.raises(ConfigError, match="cannot be divided among 1 devices and accumulate=3"):
        fitted(pack, tmp_path, accumulate=3)
    big = module(pack)
    big.batch_size = 32
    with pytest.raises(ConfigError, match="batch_size=32 is more than the 26 patches"):
        engine.fit(big, TRAINER, tmp_path, epochs=1, label="test")


def test_an_epoch_is_a_whole_number_of_steps(pack):
    from ssl_sat.data.loader import PatchLoader

    loader = PatchLoader(pack, np.arange(PATCHES), 2, shuffle=True, drop_last=True, accumulate=4)
    assert len(loader) == 12  # 13 batches of two, 3 steps of four
    shares = [loader.shares(epoch) for epoch in (0, 1)]
    assert all(len(of_epoch) == 12 for of_epoch in shares)
    assert all(not np.array_equal(a, b) for a, b in pairwise(map(np.concatenate, shares)))
