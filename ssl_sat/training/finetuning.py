"""The Lightning module of one phase of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_sat.augment.draws import Draws
from ssl_sat.augment.views import Views
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Batch, Pack
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.engine import progress_of, reseed
from ssl_sat.training.feeding import patch_loader
from ssl_sat.training.freezing import set_trainable, train_mode
from ssl_sat.training.imbalance.balance import Balance
from ssl_sat.training.mixing import mix
from ssl_sat.training.rates import Leg, continue_from, curve_of, optimizer_of
from ssl_sat.training.supervision import Supervisor
from ssl_sat.training.task import Task

_STREAM = 1_000_003  # between the seeds of two epochs' offsets


@dataclass(frozen=True)
class Work:
    """What all phases of a fine-tuning share. spec: of the stage, see `ssl_sat.finetune.FinetuneSpec`."""

    spec: Any
    model: Classifier
    views: Views
    pack: Pack
    task: Task
    balance: Balance

    @property
    def validated(self) -> np.ndarray:
        """Rows that are validated on; none where the pack has no val split."""
        return self.pack.rows("val") if "val" in self.pack.splits else np.empty(0, np.int64)

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of what a validation measures."""
        return ("val_loss", f"val_{self.task.measure}") if len(self.validated) else ()


class FinetuneModule(pl.LightningModule):
    """Train what the phase lets train on the pack's train rows; validate on its val rows, never on test.

    carried: moments of the phase before, where this one continues its optimiser.
    """

    def __init__(self, work: Work, leg: Leg, supervisor: Supervisor, carried: dict[str, Tensor]) -> None:
        super().__init__()
        self.work, self.leg, self.phase, self.model = work, leg, leg.phase, work.model
        self.supervisor, self.carried = supervisor, carried
        self.batch_size, self.seed = work.spec.batch_size, work.spec.seed + leg.before * _STREAM
        self.trainable = set_trainable(self.model, leg.phase, f"phases.steps.{leg.name}")
        self.frozen_encoder = not any(p.requires_grad for p in self.model.encoder.parameters())
        self.step_logs: dict[str, Tensor] = {}
        self.validation_logs: dict[str, Tensor] = {}
        self._sums = torch.zeros(work.task.tally_size, dtype=torch.float64)

    def train_dataloader(self) -> PatchLoader:
        """Shuffled batches of the train split, or as the answer to imbalance draws them."""
        balance = self.work.balance
        return patch_loader(
            self.trainer, self.work.spec.trainer, self.work.pack, balance.rows_M, self.batch_size, train=True,
            seed=self.seed, drop_last=balance.epoch_size >= self.batch_size, progress=self._progress,
            report=self.leg.before == 0, draw=self._draw if balance.draw else None,
        )  # fmt: skip

    def _draw(self, epoch: int) -> np.ndarray:
        assert self.work.balance.draw is not None
        return self.work.balance.draw(epoch + self.leg.before)

    def val_dataloader(self) -> PatchLoader | list[Any]:
        """The val split in order; nothing when the pack has none."""
        rows = self.work.validated
        if not len(rows):
            return []
        where = (self.trainer, self.work.spec.trainer, self.work.pack)
        return patch_loader(*where, rows, self.batch_size, seed=self.seed, train=False)

    def _progress(self) -> tuple[int, int]:
        return progress_of(self.trainer)

    def on_train_start(self) -> None:
        """A run that resumes within an epoch is not told that the epoch starts."""
        train_mode(self.model, self.phase)

    def on_train_epoch_start(self) -> None:
        """Freeze what the phase freezes, its batch norm included."""
        train_mode(self.model, self.phase)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one augmented view of each patch, some of them mixed."""
        reseed(self.seed, self, batch_idx)
        task, spec, epoch = self.work.task, self.work.spec, self.current_epoch + self.leg.before
        with torch.no_grad():
            samples_N = self._samples(batch, batch_idx)
            x_NCHW, targets = self.work.views(batch.groups, samples_N, epoch)[0], task.targets(batch.labels_N)
            if spec.mix.on:
                draws = Draws(spec.seed, epoch, "mix", samples_N)
                x_NCHW, targets = mix(x_NCHW, task.dense(targets), spec.mix, draws)
        logits_NK = self._forward(x_NCHW)
        loss = self.work.balance.loss(logits_NK, targets, task, spec.label_smoothing).mean()
        share = task.measures(task.tally(logits_NK.detach(), targets))[task.measure]
        rate = torch.full_like(loss, self.trainer.optimizers[0].param_groups[0]["lr"])
        self.step_logs = {"loss": loss.detach(), task.measure: share, "lr": rate}
        return loss

    def _samples(self, batch: Batch, batch_idx: int) -> Tensor:
        """What views and mixing are drawn for: the row; where rows repeat, the row at its place in the epoch."""
        if not self.work.balance.repeats:
            return batch.rows_N
        return at_places(batch.rows_N, batch_idx * self.batch_size + self.trainer.global_rank * len(batch.rows_N))

    def _forward(self, x_NCHW: Tensor) -> Tensor:
        if self.frozen_encoder:  # no graph is needed
            with torch.no_grad():
                h_ND = self.model.features(x_NCHW)
            return self.model.head(h_ND)
        return self.model(x_NCHW)

    def on_validation_epoch_start(self) -> None:
        """Start the sums."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
        self._sums = torch.zeros(self.work.task.tally_size, dtype=exact, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up loss and hits of the centre view, as the task counts them: unweighted, unsmoothed."""
        task = self.work.task
        logits_NK = self.model(self.work.views.center(batch.groups)).float()
        self._sums += task.tally(logits_NK, task.targets(batch.labels_N)).to(self._sums)

    def on_validation_epoch_end(self) -> None:
        """Sum over ranks and keep the means for the history."""
        gathered: Any = self.all_gather(self._sums)
        sums = gathered.reshape(-1, self.work.task.tally_size).sum(0)
        if sums[1] > 0:
            measures = self.work.task.measures(sums)
            self.validation_logs = {f"val_{name}": value for name, value in measures.items()}

    def configure_optimizers(self) -> Any:
        """An optimiser over what trains in this phase, its rates along the phase's curve and down its plateaus.

        Steps are counted here: asking `trainer.estimated_stepping_batches` while optimisers are made sets up the loader
        before a checkpoint is restored, and its position is then lost (Lightning 2.6).
        """
        spec = self.work.spec
        optimizer = optimizer_of(self.model, self.phase, spec.optim, self.batch_size)
        if self.phase.optimizer == "continue":
            continue_from(optimizer, self.model, self.carried)
        factor = curve_of(self.leg, spec.optim, len(self.train_dataloader()))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step) * self.supervisor.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def at_places(rows_N: Tensor, first: int) -> Tensor:
    """Numbers for rows that may repeat, different for every place in the epoch; `first` is that of the first row."""
    places_N = torch.arange(first + 1, first + 1 + len(rows_N), device=rows_N.device)
    return rows_N + (places_N << 32)
