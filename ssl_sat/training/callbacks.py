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
from ssl_sat.stage import record_facts
from ssl_sat.training.metrics_csv import MetricsCsv
from ssl_sat.training.survival import last_good, stop_everywhere


class History(pl.Callback):
    """Write `history.jsonl` and `metrics.csv`: one row a step, one a validation or watch, exact across kills.

    Values stay on the device until `every` steps have gathered, so that no step waits for a transfer. They are means
    over the processes, each of which has the same number of samples. Rows after the checkpoint that a run resumes
    from are cut off, since their steps run again. What depends on the clock goes to the CSV and the loggers alone.
    """

    def __init__(self, path: Path, every: int, phase: str = "") -> None:
        self.path, self.every, self.phase = path, every, phase
        self.csv = MetricsCsv(path.with_name("metrics.csv"))
        self.speed = Speed()
        self._waiting: list[tuple[int, int, dict[str, Any]]] = []

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Cut off rows of this phase that will be written again."""
        self.speed.start(trainer)
        if not trainer.is_global_zero:
            return

        def keep(row: dict[str, Any]) -> bool:
            return row["phase"] != self.phase or row["step"] <= trainer.global_step

        self.csv.cut(keep)
        if self.path.exists():
            rows = [row for row in read_history(self.path) if keep(row)]
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Gather the step's values, once it is complete."""
        if not module.step_logs:
            return
        self._waiting.append((trainer.current_epoch, trainer.global_step, module.step_logs))
        self.speed.count(module.batch_size)
        if trainer.global_step % self.every == 0:
            self.flush(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write what has gathered."""
        self.flush(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Leave the speed for the provenance."""
        record_facts(self.path.parent, speed=self.speed.overall())

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """A checkpoint never runs ahead of the history."""
        self.flush(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Write the validation's values as a row of their own (the module has summed them up by now)."""
        if not trainer.sanity_checking and module.validation_logs:
            self._waiting.append((trainer.current_epoch, trainer.global_step, module.validation_logs))
            self.flush(trainer)

    def flush(self, trainer: pl.Trainer) -> None:
        """Move the gathered values to the host, write them and let the guard see them."""
        rows = [{"phase": self.phase, "epoch": e, "step": s, **values} for e, s, values in self._on_host(trainer)]
        self._waiting = []
        if not rows:
            return
        self.write(trainer, rows, self.speed.since(trainer))
        for row in rows:
            check_health(row, self.path.parent / "checkpoints" / (self.phase or "run"))

    def _on_host(self, trainer: pl.Trainer) -> list[tuple[int, int, dict[str, float]]]:
        """The gathered values as numbers, in one transfer; means over the processes."""
        flat = [value for _, _, logs in self._waiting for value in logs.values()]
        if not flat:
            return []
        exact = torch.float32 if flat[0].device.type == "mps" else torch.float64  # MPS has no float64
        values: Any = torch.stack([value.detach().to(exact) for value in flat])
        if trainer.world_size > 1:
            values = trainer.strategy.reduce(values, reduce_op="mean")
        numbers = iter(values.tolist())
        return [(e, s, _with_distance({name: next(numbers) for name in logs})) for e, s, logs in self._waiting]

    def write(self, trainer: pl.Trainer, rows: list[dict[str, Any]], speed: dict[str, float] | None = None) -> None:
        """Append rows to both files and hand them to the loggers; `speed` joins the last one there."""
        if trainer.is_global_zero:
            with self.path.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        shown = [*rows[:-1], {**rows[-1], **(speed or {})}]
        if trainer.is_global_zero:
            self.csv.append(shown)
        for logger in trainer.loggers:
            for row in shown:
                values = {k: v for k, v in row.items() if k not in ("phase", "epoch", "step")}
                logger.log_metrics(values, step=row["step"])


def _with_distance(values: dict[str, float]) -> dict[str, float]:
    """Add how far the loss is above the floor of its batch size, where the method knows one."""
    if "loss_floor" not in values:
        return values
    return {**values, "loss_above_floor": values["loss"] - values["loss_floor"]}


class Speed:
    """Images per second, and the share of time in which training waited for data, by the clock of this process."""

    def __init__(self) -> None:
        self._images = self._all_images = 0
        self._seconds = self._waited = 0.0
        self._from, self._waited_from = time.monotonic(), 0.0

    def start(self, trainer: pl.Trainer) -> None:
        """Start the clock anew, as after an evaluation."""
        self._images, self._from, self._waited_from = 0, time.monotonic(), _waited(trainer)

    def count(self, images: int) -> None:
        """Count a step."""
        self._images += images

    def since(self, trainer: pl.Trainer) -> dict[str, float]:
        """Speed since the last call or start; nothing when no step was made."""
        seconds, waited = time.monotonic() - self._from, _waited(trainer) - self._waited_from
        images = self._images
        self.start(trainer)
        if not images:
            return {}
        self._all_images, self._seconds, self._waited = (
            self._all_images + images,
            self._seconds + seconds,
            self._waited + waited,
        )
        return {"images_per_second": images / seconds, "data_wait_share": waited / seconds}

    def overall(self) -> dict[str, float | int]:
        """Speed of everything that this process trained."""
        seconds = max(self._seconds, 1e-9)
        return {
            "images": self._all_images,
            "images_per_second": self._all_images / seconds,
            "data_wait_share": self._waited / seconds,
        }


def _waited(trainer: pl.Trainer) -> float:
    return float(getattr(trainer.train_dataloader, "waited_s", 0.0))


def check_health(row: dict[str, Any], folder: Path) -> None:
    """Raise UserError with the cause when a row shows an impossible or infinite loss, or collapsed embeddings.

    Every process sees the same rows. `folder` holds the checkpoints; one is saved only after its rows were seen here.

    The standard deviation of unit embeddings over a batch, averaged over D dimensions, is 1/sqrt(D) for
    embeddings spread over the sphere and 0 at collapse (SimSiam, Chen & He 2021, section 4.1); here it is
    recorded times sqrt(D), and the run stops below 0.01. A loss under its floor (float32 rounds by 1e-6) is not the
    loss that it is called.
    """
    where = f"at epoch {row['epoch']}, step {row['step']}"
    loss = row.get("loss", 0.0)
    if loss != loss or loss in (float("inf"), float("-inf")):
        stop_everywhere(
            f"the loss is {loss} {where}. {last_good(folder)} Lower optim.lr, or train with trainer.precision=32-true."
        )
    if row.get("loss_above_floor", 0.0) < -1e-3:
        stop_everywhere(
            f"the loss is {loss:.4f} {where}, under {row['loss_floor']:.4f}, the smallest value that it can take: "
            "embeddings are not of unit length, or it is another loss than it is called. Mend the loss."
        )
    if row.get("embedding_std", 1.0) < 0.01:
        stop_everywhere(
            f"the embeddings collapsed {where}: their spread is {row['embedding_std']:.4f} of a sphere's. "
            f"{last_good(folder)} Lower optim.lr, raise the batch size or the variety of the views (augment=...)."
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
        if not module.step_logs or not trainer.is_global_zero or (now - self._spoke < self.seconds and not last):
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
