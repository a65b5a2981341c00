"""The Lightning module of pretraining: views, method, optimiser, schedule. No loop of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_sat.augment.views import Views
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Batch, Pack
from ssl_sat.optim import build_optimizer
from ssl_sat.optim.schedule import warmup_cosine
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.report import figures
from ssl_sat.report.curves import panels_of
from ssl_sat.spec import ConfigError
from ssl_sat.training.callbacks import epoch_mean, read_history
from ssl_sat.training.engine import progress_of, reseed
from ssl_sat.training.feeding import patch_loader
from ssl_sat.training.spec import TrainerSpec


class PretrainModule(pl.LightningModule):
    """Optimise a method on the views of a pack's rows.

    batch_size is that of all devices together.
    """

    def __init__(
        self, method: Any, views: Views, pack: Pack, rows: Any, optim: OptimSpec, batch_size: int, seed: int,
        trainer_spec: TrainerSpec,
    ) -> None:  # fmt: skip
        super().__init__()
        self.method, self.views = method, views
        self.pack, self.rows, self.optim_spec = pack, rows, optim
        self.batch_size, self.seed, self.trainer_spec = batch_size, seed, trainer_spec
        self.step_logs: dict[str, Tensor] = {}
        self.validation_logs: dict[str, Tensor] = {}

    def train_dataloader(self) -> PatchLoader:
        """Equal, shuffled batches."""
        return patch_loader(
            self.trainer, self.trainer_spec, self.pack, self.rows, self.batch_size, seed=self.seed, train=True,
            drop_last=True, progress=self._progress,
        )  # fmt: skip

    def _progress(self) -> tuple[int, int]:
        return progress_of(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: V views of N patches in one forward pass."""
        reseed(self.seed, self, batch_idx)
        with torch.no_grad():
            x_VNCHW = self.views(batch.groups, batch.rows_N, self.current_epoch)
        loss, logs = self.method.loss(x_VNCHW)
        self.step_logs = {"loss": loss.detach(), **{name: value.detach() for name, value in logs.items()}}
        return loss

    def configure_optimizers(self) -> Any:
        """Optimiser with warm-up and cosine to zero, per step."""
        per_epoch = len(self.train_dataloader())
        total = per_epoch * int(self.trainer.max_epochs or 1)
        return scheduled(self.optim_spec, self.method.named_parameters(), self.batch_size, total, per_epoch)


def scheduled(spec: OptimSpec, named: Any, batch_size: int, total: int, per_epoch: int) -> dict[str, Any]:
    """Return Lightning's optimiser dictionary: peak rate scaled by the global batch, warm-up, cosine to zero.

    `total` steps are counted by the caller: asking `trainer.estimated_stepping_batches` while optimisers are made sets
    up the loader before a checkpoint is restored, and its position is then lost (Lightning 2.6).
    """
    optimizer = build_optimizer(spec, named, batch_size)
    warmup = round(spec.warmup_epochs * per_epoch)
    if warmup >= total:
        raise ConfigError(
            f"optim.warmup_epochs={spec.warmup_epochs:g} leaves nothing of {total / per_epoch:g} epochs for training; "
            f"set optim.warmup_epochs={total / per_epoch / 10:.1g} or so"
        )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, total, warmup, 1.0))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def summarise(history: Path, spec: Any, encoder: Any, rows: np.ndarray) -> dict[str, Any]:
    """Flat metrics of a finished run, from its history: means over the first and the last epoch."""
    steps = [row for row in read_history(history) if "loss" in row]
    last = spec.epochs - 1
    names = [name for name in steps[-1] if name not in ("phase", "epoch", "step")]
    means = {f"{name}_last_epoch": epoch_mean(steps, name, last) for name in names}
    return {
        **means,
        "loss_first_epoch": epoch_mean(steps, "loss", 0),
        "epochs": spec.epochs,
        "steps": len(steps),
        "patches": len(rows),
        "batch_size": spec.batch_size,
        "encoder_parameters": sum(p.numel() for p in encoder.parameters()),
        "bands": ",".join(encoder.bands),
        "initialisation": "artifact" if spec.init not in ("scratch", "imagenet") else spec.init,
    }


def draw_curves(out: Path, demo: bool) -> None:
    """Loss with its floor, and what is watched beside it, epoch by epoch, as PNG and PDF."""
    panels = panels_of(read_history(out / "history.jsonl"))
    bounds = {name: panels.pop(f"loss_{name}", None) for name in ("floor", "collapse", "above_floor")}
    floors = {"loss": bounds["floor"]["train"][1][-1]} if bounds["floor"] else {}
    figures.save(figures.training_curves(panels, floors=floors, demo=demo), out / "curves")
