"""The Lightning module of pretraining: views, method, optimiser, schedule. No loop of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
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
from ssl_sat.training.gradient_cache import embed_in_chunks
from ssl_sat.training.spec import TrainerSpec


class PretrainModule(pl.LightningModule):
    """Optimise a method on the views of a pack's rows.

    batch_size: patches of one optimiser step, over all devices. accumulate: forward passes a step is divided into, each
    with an objective of its own. cache_chunk: patches that one device embeds at a time (see `gradient_cache`).
    """

    def __init__(
        self, method: Any, views: Views, pack: Pack, rows: Any, optim: OptimSpec, batch_size: int, seed: int,
        trainer_spec: TrainerSpec, accumulate: int = 1, cache_chunk: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.method, self.views = method, views
        self.pack, self.rows, self.optim_spec = pack, rows, optim
        self.batch_size, self.seed, self.trainer_spec = batch_size, seed, trainer_spec
        self.accumulate, self.cache_chunk, self.steps = accumulate, cache_chunk, 0
        self.step_logs: dict[str, Tensor] = {}  # of a whole step: empty after a batch that does not complete one
        self._parts: list[dict[str, Tensor]] = []
        self.validation_logs: dict[str, Tensor] = {}

    def train_dataloader(self) -> PatchLoader:
        """Equal, shuffled batches, `accumulate` of them a step."""
        if len(self.rows) < self.batch_size:
            raise ConfigError(
                f"batch_size={self.batch_size} is more than the {len(self.rows)} patches; choose a smaller one."
            )
        if self.batch_size % (self.accumulate * self.trainer.world_size):
            raise ConfigError(
                f"batch_size={self.batch_size} (of a step, over all devices) cannot be divided among "
                f"{self.trainer.world_size} devices and accumulate={self.accumulate} forward passes."
            )
        return patch_loader(
            self.trainer, self.trainer_spec, self.pack, self.rows, self.batch_size // self.accumulate, seed=self.seed,
            train=True, drop_last=True, accumulate=self.accumulate, progress=self._progress,
        )  # fmt: skip

    def _progress(self) -> tuple[int, int]:
        return progress_of(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """V views of N patches in one forward pass, or chunk by chunk, then one objective."""
        reseed(self.seed, self, batch_idx)
        loss, logs = self.method.objective(self._embedded(batch))
        self._note({"loss": loss.detach(), **{name: value.detach() for name, value in logs.items()}}, batch_idx)
        return loss

    def _embedded(self, batch: Batch) -> Tensor:
        epoch, count = self.current_epoch, len(batch.rows_N)

        def inputs(part: slice) -> tuple[Any, ...]:
            rows_N = batch.rows_N[part]
            x_VNCHW = self.views([group[part] for group in batch.groups], rows_N, epoch)
            return (x_VNCHW, Draws(self.seed, epoch, "mask", rows_N)) if self.method.reconstructs else (x_VNCHW,)

        def embed(arguments: tuple[Any, ...]) -> Tensor:
            return self.method.embed(*arguments)

        if self.cache_chunk is not None and self.cache_chunk < count:
            return embed_in_chunks(embed, inputs, count, self.cache_chunk, self.method)
        with torch.no_grad():
            whole = inputs(slice(0, count))
        return embed(whole)

    def _note(self, values: dict[str, Tensor], batch_idx: int) -> None:
        """Keep what is logged, as means over the batches of a step."""
        self._parts.append(values)
        if (batch_idx + 1) % self.accumulate:
            self.step_logs = {}
            return
        parts, self._parts = self._parts, []
        self.step_logs = {name: sum(part[name] for part in parts) / len(parts) for name in values}  # type: ignore[misc]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let targets follow their networks: here, and not in a hook, so that checkpoints hold both."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self.trainer.global_step + 1, self.steps)

    def configure_optimizers(self) -> Any:
        """Optimiser with warm-up and cosine to zero, per step."""
        per_epoch = len(self.train_dataloader()) // self.accumulate
        self.steps = per_epoch * int(self.trainer.max_epochs or 1)
        return scheduled(self.optim_spec, self.method.named_parameters(), self.batch_size, self.steps, per_epoch)


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


def summarise(history: Path, spec: Any, encoder: Any, rows: np.ndarray, initialisation: str) -> dict[str, Any]:
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
        "initialisation": initialisation,
    }


def draw_curves(out: Path, demo: bool) -> None:
    """Loss with its floor, and what is watched beside it, epoch by epoch, as PNG and PDF."""
    panels = panels_of(read_history(out / "history.jsonl"))
    bounds = {name: panels.pop(f"loss_{name}", None) for name in ("floor", "collapse", "above_floor")}
    floors = {"loss": bounds["floor"]["train"][1][-1]} if bounds["floor"] else {}
    figures.save(figures.training_curves(panels, floors=floors, demo=demo), out / "curves")
