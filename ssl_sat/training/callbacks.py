"""What watches a training run: history, progress, and the guard against collapse."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ssl_sat.artifact import write_atomic
from ssl_sat.spec import UserError


class History(pl.Callback):
    """Write `history.jsonl`: one row a step, one a validation, exact across kills.

    Values stay on the device until `every` steps have gathered, so that no step waits for a transfer.
    Rows after the checkpoint that a run resumes from are cut off, since their steps run again.
    """

    def __init__(self, path: Path, every: int, phase: str = "") -> None:
        self.path, self.every, self.phase = path, every, phase
        self._waiting: list[tuple[int, int, dict[str, Any]]] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Cut off rows of this phase that will be written again."""
        if not trainer.is_global_zero or not self.path.exists():
            return
        rows = read_history(self.path)
        keep = [row for row in rows if row["phase"] != self.phase or row["step"] <= trainer.global_step]
        if len(keep) < len(rows):
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in keep).encode())

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Gather the step's values."""
        self._waiting.append((trainer.current_epoch, trainer.global_step, module.step_logs))
        if trainer.global_step % self.every == 0:
            self.flush(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write what has gathered."""
        self.flush(trainer, module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """A checkpoint never runs ahead of the history."""
        self.flush(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write the validation's values as a row of their own (the module has summed them up by now)."""
        if not trainer.sanity_checking and module.validation_logs:
            self._waiting.append((trainer.current_epoch, trainer.global_step, module.validation_logs))
            self.flush(trainer, module)

    def flush(self, trainer: pl.Trainer, module: Any) -> None:
        """Move the gathered values to the host, write them and let the guard see them."""
        rows: list[dict[str, Any]] = [
            {"phase": self.phase, "epoch": epoch, "step": step, **{name: float(value) for name, value in logs.items()}}
            for epoch, step, logs in self._waiting
        ]
        self._waiting = []
        if trainer.is_global_zero and rows:
            with self.path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            check_health(row)
        for logger in trainer.loggers:
            for row in rows:
                values = {k: v for k, v in row.items() if k not in ("phase", "epoch", "step")}
                logger.log_metrics(values, step=row["step"])


def check_health(row: dict[str, Any]) -> None:
    """Raise UserError with the cause when a row shows a loss that is not finite or collapsed embeddings.

    The standard deviation of unit embeddings over a batch, averaged over D dimensions, is 1/sqrt(D) for
    embeddings spread over the sphere and 0 at collapse (SimSiam, Chen & He 2021, section 4.1); here it is
    recorded times sqrt(D), and the run stops below 0.01.
    """
    where = f"at epoch {row['epoch']}, step {row['step']}"
    loss = row.get("loss", 0.0)
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise UserError(f"the loss is {loss} {where}. Lower optim.lr, or train with trainer.precision=32-true.")
    if row.get("embedding_std", 1.0) < 0.01:
        raise UserError(
            f"the embeddings collapsed {where}: their spread is {row['embedding_std']:.4f} of a sphere's. "
            f"Lower optim.lr, raise the batch size or the variety of the views (augment=...)."
        )


def read_history(path: Path) -> list[dict[str, Any]]:
    """Rows of a history; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class PlainProgress(pl.Callback):
    """Progress for logs: at most one line every few seconds, with rate and time left."""

    def __init__(self, label: str, seconds: float = 10.0) -> None:
        self.label, self.seconds = label, seconds
        self._began, self._spoke, self._first = 0.0, 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = self._spoke = time.monotonic()
        self._first = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Speak when it is time, and at the end."""
        now, last = time.monotonic(), trainer.global_step >= trainer.estimated_stepping_batches
        if not trainer.is_global_zero or (now - self._spoke < self.seconds and not last):
            return
        self._spoke = now
        steps = trainer.global_step - self._first
        rate = steps / max(now - self._began, 1e-9)
        left = (trainer.estimated_stepping_batches - trainer.global_step) / rate
        values = ", ".join(f"{k} {float(v):.3f}" for k, v in module.step_logs.items() if k in ("loss", "accuracy"))
        done = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} step {trainer.global_step}"
        images = rate * module.batch_size
        sys.stdout.write(f"  {self.label}: {done}  {values}  {images:.0f} images/s  {left:.0f} s left\n")
        sys.stdout.flush()


def epoch_mean(rows: list[dict[str, Any]], name: str, epoch: int, phase: str = "") -> float:
    """Mean of a step value over an epoch, from the history (exact in a resumed run)."""
    values = [row[name] for row in rows if row["epoch"] == epoch and row["phase"] == phase and name in row]
    return float(torch.tensor(values, dtype=torch.float64).mean())
