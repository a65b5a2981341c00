"""The Lightning module of one phase of fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.augment.views import Views
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Batch, Pack
from ssl_sat.data.subset import select
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.ranks import is_main_process
from ssl_sat.training import engine
from ssl_sat.training.callbacks import epoch_mean, read_history
from ssl_sat.training.classifier import Classifier, set_trainable, train_mode
from ssl_sat.training.engine import progress_of, reseed
from ssl_sat.training.feeding import patch_loader
from ssl_sat.training.pretraining import scheduled
from ssl_sat.training.spec import Phase, TrainerSpec


class FinetuneModule(pl.LightningModule):
    """Train what the phase lets train on the pack's train rows; validate on its val rows, never on test.

    epoch_offset: epochs of earlier phases, so that no two epochs share order, views or dropout.
    """

    def __init__(
        self, model: Classifier, views: Views, pack: Pack, phase: Phase, optim: OptimSpec, *, batch_size: int,
        seed: int, epoch_offset: int, label_smoothing: float, rows: np.ndarray, trainer_spec: TrainerSpec,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.views, self.pack = model, views, pack
        self.phase, self.optim_spec, self.batch_size = phase, optim, batch_size
        self.seed, self.epoch_offset, self.label_smoothing, self.rows = seed, epoch_offset, label_smoothing, rows
        self.trainer_spec = trainer_spec
        self.trainable = set_trainable(model, phase.train)
        self.step_logs: dict[str, Tensor] = {}
        self.validation_logs: dict[str, Tensor] = {}
        self._sums = torch.zeros(3, dtype=torch.float64)

    def _loader(self, rows: np.ndarray, train: bool) -> PatchLoader:
        return patch_loader(
            self.trainer, self.trainer_spec, self.pack, rows, self.batch_size, train=train,
            seed=self.seed + self.epoch_offset * 1_000_003, drop_last=train and len(rows) >= self.batch_size,
            progress=self._progress if train else None, report=self.epoch_offset == 0,
        )  # fmt: skip

    def train_dataloader(self) -> PatchLoader:
        """Shuffled batches of the train split."""
        return self._loader(self.rows, train=True)

    def val_dataloader(self) -> PatchLoader | list[Any]:
        """The val split in order; nothing when the pack has none."""
        rows = self.pack.rows("val")
        return self._loader(rows, train=False) if len(rows) else []

    def _progress(self) -> tuple[int, int]:
        return progress_of(self.trainer)

    def on_train_start(self) -> None:
        """A run that resumes within an epoch is not told that the epoch starts."""
        train_mode(self.model, self.phase.train)

    def on_train_epoch_start(self) -> None:
        """Freeze what the phase freezes, its batch norm included."""
        train_mode(self.model, self.phase.train)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy on one augmented view."""
        reseed(self.seed + self.epoch_offset * 1_000_003, self, batch_idx)
        with torch.no_grad():
            x_NCHW = self.views(batch.groups, batch.rows_N, self.current_epoch + self.epoch_offset)[0]
        logits_NK = self._forward(x_NCHW)
        loss = F.cross_entropy(logits_NK.float(), batch.labels_N, label_smoothing=self.label_smoothing)
        accuracy = (logits_NK.argmax(1) == batch.labels_N).float().mean()
        self.step_logs = {"loss": loss.detach(), "accuracy": accuracy.detach()}
        return loss

    def _forward(self, x_NCHW: Tensor) -> Tensor:
        if self.phase.train == "head":  # the trunk is frozen and in eval mode: no graph is needed
            with torch.no_grad():
                h_ND = self.model.features(x_NCHW)
            return self.model.head(h_ND)
        return self.model(x_NCHW)

    def on_validation_epoch_start(self) -> None:
        """Start the sums."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
        self._sums = torch.zeros(3, dtype=exact, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add loss, hits and count of the centre view."""
        logits_NK = self.model(self.views.center(batch.groups)).float()
        loss = F.cross_entropy(logits_NK, batch.labels_N, reduction="sum")
        hits = (logits_NK.argmax(1) == batch.labels_N).sum()
        count = torch.full_like(loss, len(batch.labels_N))
        self._sums += torch.stack([loss, hits.to(loss), count]).to(self._sums)

    def on_validation_epoch_end(self) -> None:
        """Sum over ranks and keep the means for the history."""
        gathered: Any = self.all_gather(self._sums)
        sums = gathered.reshape(-1, 3).sum(0)
        if sums[2] > 0:
            self.validation_logs = {"val_loss": sums[0] / sums[2], "val_accuracy": sums[1] / sums[2]}

    def configure_optimizers(self) -> Any:
        """A fresh optimiser over what trains in this phase, with its own warm-up and cosine."""
        per_epoch = len(self.train_dataloader())
        total = per_epoch * self.phase.epochs
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        spec = self.optim_spec.model_copy(update={"lr": self.phase.lr})
        return scheduled(spec, named, self.batch_size, total, per_epoch)


def train_phases(spec: Any, model: Classifier, views: Views, pack: Pack, out: Path) -> dict[str, Any]:
    """Train the phases one after the other, each a run of the Trainer; a resumed run skips those that are done.

    Separate runs, because DistributedDataParallel fixes at its start which parameters it synchronises.
    """
    rows, offset, metrics = select(pack, pack.rows("train"), spec.subset), 0, {}
    for name, phase in spec.phases.steps.items():
        module = FinetuneModule(
            model, views, pack, phase, spec.optim, batch_size=spec.batch_size, seed=spec.seed, epoch_offset=offset,
            label_smoothing=spec.label_smoothing, rows=rows, trainer_spec=spec.trainer,
        )  # fmt: skip
        if engine.is_done(out, name):
            model.load_state_dict(engine.load_done(out, name))
        else:
            label = f"finetune, phase {name}"
            engine.fit(module, spec.trainer, out, epochs=phase.epochs, label=label, phase=name)
            engine.mark_done(out, name, model.state_dict())
        metrics[f"phase_{name}_trainable_parameters"] = module.trainable
        offset += phase.epochs
    if not is_main_process():  # the history is the main process's, who is about to move it
        return {}
    engine.clear(out)
    return {**metrics, "epochs": offset, "train_patches": len(rows), **_last_epoch(out, phase, name)}


def _last_epoch(out: Path, phase: Phase, name: str) -> dict[str, float]:
    rows = read_history(out / "history.jsonl")
    return {f"train_{value}": epoch_mean(rows, value, phase.epochs - 1, name) for value in ("loss", "accuracy")}
