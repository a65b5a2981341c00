"""Checkpoints that a kill or a power cut cannot damage, and the choice of the one to resume from."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ssl_sat.artifact import sync_folder
from ssl_sat.spec import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target, fsync, replace, fsync the folder.

    Lightning's own plugin writes under TMPDIR and moves without fsync, which leaves half a file when killed
    while TMPDIR is on another file system. Reading uses weights_only: a checkpoint cannot run code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save to a local path; UserError when the disk does not take it, and what was there before stays."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
        except (OSError, RuntimeError) as error:  # torch turns some write errors into RuntimeError
            cause = _os_error(error)
            if cause is None:
                raise
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"the checkpoint {target} cannot be written: {cause.strerror}. Make room or mend the folder; the same "
                f"command then goes on from the checkpoint before it."
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load tensors and plain data only."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def _os_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind an error, or None."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def may_save(trainer: Any) -> bool:
    """Whether a resumed run would continue exactly from here: after a whole step, and not after an epoch's last one.

    In the midst of accumulation a checkpoint would lose gradients. After the last batch of an epoch Lightning 2.6
    resumes without counting the next epoch, so that a checkpoint saved in that one is wrong; nor would the validation
    be made up for. Such saves wait for the end of the epoch, which follows at once.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.current.ready % trainer.accumulate_grad_batches == 0 and not progress.is_last_batch


class _StepCheckpoint(ModelCheckpoint):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Save after whole steps within an epoch."""
        if may_save(trainer):
            super().on_train_batch_end(trainer, *args)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save what was due with the last step, now that validation and watch are over."""
        super().on_train_batch_end(trainer, pl_module, None, None, 0)


def checkpoint_callback(folder: Path, every_n_steps: int) -> ModelCheckpoint:
    """Save every n steps, keep the two newest."""
    return _StepCheckpoint(
        dirpath=folder,
        filename="{step:09d}",
        monitor="step",
        mode="max",
        save_top_k=2,
        every_n_train_steps=every_n_steps,
        auto_insert_metric_name=False,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def newest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a folder; remove damaged ones and leftovers of a killed save."""
    for orphan in folder.glob(".*.tmp"):
        orphan.unlink()
    for path in sorted(folder.glob("[0-9]*.ckpt"), key=lambda p: int(p.stem), reverse=True):
        if zipfile.is_zipfile(path):
            return path
        path.unlink()
    return None
