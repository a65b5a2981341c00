"""Methods with state of their own through the Trainer: targets and queues are resumed to the bit and follow steps."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fakes.packs import write

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.data.packed import Pack
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods import METHODS
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.training import engine
from ssl_sat.training.callbacks import read_history
from ssl_sat.training.pretraining import PretrainModule
from ssl_sat.training.spec import TrainerSpec

BANDS = ("B04", "B03", "B02")
TRAINER = TrainerSpec(accelerator="cpu", progress=False, tensorboard=False, checkpoint_every_n_steps=1)
EPOCHS, BATCH, PATCHES = 2, 8, 26  # three steps an epoch
CNN = {"name": "cnn", "dropout": 0.1}
VIT = {"name": "timm", "model": "test_vit", "patch_size": 4}
METHOD = {
    "byol": {"head_hidden": 16, "head_out": 8, "momentum": 0.9},
    "moco": {"head_hidden": 16, "head_out": 8, "momentum": 0.9, "queue": 20},
    "mae": {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 3},
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return write(tmp_path_factory.mktemp("data") / "pack", PATCHES, groups=((BANDS, 16, 10.0),))


def module(pack: Pack, name: str, **changes) -> PretrainModule:
    parsed = ENCODERS.parse(VIT if name == "mae" else CNN)
    encoder = ENCODERS.build(parsed, bands=BANDS, image_size=16, seed=0)
    method = METHODS.build(METHODS.parse({"name": name, **METHOD[name]}), encoder=encoder, seed=0)
    views = Views(
        AugmentSpec(name="eo_light", crop_scale=(0.5, 1.0), flip_horizontal=0.5), [(BANDS, 16, 16)], bands=BANDS,
        scale=1e4, offset=0.0, mean_C=[3.3] * 3, std_C=[1.9] * 3, image_size=16, num_views=method.num_views,
    )  # fmt: skip
    optim = OptimSpec(name="sgd", lr=0.05, scale="none", warmup_epochs=0.5)
    return PretrainModule(method, views, pack, np.arange(PATCHES), optim, BATCH, 0, TRAINER, **changes)


class Stop(pl.Callback):
    """Break off without warning after so many batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")


def fitted(pack: Pack, out: Path, name: str, callbacks=(), **changes):
    out.mkdir(parents=True, exist_ok=True)
    run = module(pack, name, **changes)
    accumulate = changes.get("accumulate", 1)
    engine.fit(run, TRAINER, out, epochs=EPOCHS, label="test", accumulate=accumulate, callbacks=callbacks)
    return run.method, read_history(out / "history.jsonl")


@pytest.mark.parametrize(("name", "accumulate", "cuts"), [("byol", 1, (2, 3)), ("moco", 2, (5, 3)), ("mae", 1, (4,))])
def test_a_run_that_was_cut_ends_with_the_same_bits(pack, tmp_path, name, accumulate, cuts):
    whole, rows = fitted(pack, tmp_path / "whole", name, accumulate=accumulate)
    for after in cuts:
        with pytest.raises(RuntimeError, match="killed"):
            fitted(pack, tmp_path / "cut", name, callbacks=[Stop(after)], accumulate=accumulate)
    cut, in_cut = fitted(pack, tmp_path / "cut", name, accumulate=accumulate)
    assert len(rows) == 6 and in_cut == rows
    for (key, a), b in zip(cut.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    if name == "moco":
        assert cut.position.item() == EPOCHS * 3 * BATCH % 20  # every forward pass of every step


def test_the_target_moves_once_a_step_and_stands_still_at_the_end(pack, tmp_path):
    seen: list[tuple[int, int]] = []
    run = module(pack, "byol", accumulate=4)
    after_step, targets = run.method.after_step, []

    def noted(step: int, total: int) -> None:
        after_step(step, total)
        seen.append((step, total))
        targets.append([p.clone() for p in run.method.target.parameters()])

    run.method.after_step = noted
    engine.fit(run, TRAINER, tmp_path, epochs=EPOCHS, label="test", accumulate=4)
    assert seen == [(step, 6) for step in range(1, 7)]
    assert all(torch.equal(a, b) for a, b in zip(targets[-1], targets[-2], strict=True))  # the decay has reached 1
    assert any(not torch.equal(a, b) for a, b in zip(targets[1], targets[0], strict=True))


def test_masks_do_not_depend_on_how_a_batch_is_divided(pack, tmp_path):
    """Chunks, parts and the whole batch of the autoencoder are one and the same run."""
    _, whole = fitted(pack, tmp_path / "whole", "mae")
    _, chunks = fitted(pack, tmp_path / "chunks", "mae", cache_chunk=3)
    _, parts = fitted(pack, tmp_path / "parts", "mae", accumulate=4)
    for rows in (chunks, parts):
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in whole], rel=1e-5)
    assert all(set(row) == {"phase", "epoch", "step", "loss"} for row in whole)
