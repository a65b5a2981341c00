"""Leaving in good order: signals wait for the end of a step, a checkpoint never holds what is not finite."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch import Tensor

from ssl_sat.ranks import is_main_process, started_by_main
from ssl_sat.spec import UserError
from ssl_sat.training.checkpoints import may_save


def stop_everywhere(message: str) -> NoReturn:
    """End a run for a reason that every process has found: the main one says it, the others leave quietly."""
    if is_main_process():
        raise UserError(message)
    raise SystemExit(0)


class Survival(pl.Callback):
    """SIGTERM, Ctrl-C and Slurm's signal before its time limit: finish the step, save, leave with 128 + signal.

    Lightning's own handlers act within a step, where weights may be half updated, and its distributed loop makes the
    host wait for the device in every step; here the processes agree every `every` steps, where the host waits anyway.
    Slurm's requeue is still Lightning's: its handler is called once the step is complete and saved.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self._noted = 0
        self._lightnings: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over the signals that Lightning has just registered; it restores what was there before it."""
        requeue = [signal.SIGUSR1] if SLURMEnvironment.detect() else []
        for number in (signal.SIGTERM, signal.SIGINT, *requeue):
            self._lightnings[number] = signal.getsignal(number)
            if self._lightnings[number] != signal.SIG_IGN:  # as after nohup
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self._noted = max(self._noted, number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Leave when any process was told to."""
        if may_save(trainer) and (trainer.world_size == 1 or trainer.global_step % self.every == 0):
            self._leave_if_told(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What was told during the last step waits for validation and watch."""
        self._leave_if_told(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Nor does a signal during the last step get lost."""
        self._leave_if_told(trainer)

    def _leave_if_told(self, trainer: pl.Trainer) -> None:
        number = self._noted
        if trainer.world_size > 1:
            here = torch.tensor(number, device=trainer.strategy.root_device)
            told: Any = trainer.strategy.reduce(here, reduce_op="max")
            number = int(told)
        if number:
            self._leave(trainer, number)

    def _leave(self, trainer: pl.Trainer, number: int) -> NoReturn:
        step = trainer.global_step
        trainer.save_checkpoint(checkpoint_path(self.folder, step))
        if number == signal.SIGUSR1:
            self._lightnings[number](number, None)
        name = signal.Signals(number).name
        if is_main_process():
            print(f"{name}: saved after step {step}; the same command goes on from there", file=sys.stderr, flush=True)
        raise SystemExit(0 if started_by_main() else 128 + number)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse to save weights or moments that are not finite, so that what is kept is the last good state."""
        tensors = _tensors([checkpoint["state_dict"], checkpoint.get("optimizer_states", [])])
        finite = [torch.isfinite(t).all() for t in tensors if t.is_floating_point() and t.numel()]
        if finite and not torch.stack([flag.to(finite[0].device) for flag in finite]).all():
            stop_everywhere(
                f"the weights are not finite after epoch {trainer.current_epoch}, step {trainer.global_step}; they "
                f"were not saved. {last_good(self.folder)} Lower optim.lr, or train with trainer.precision=32-true."
            )


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (Mapping, list, tuple)):
        branches: Iterable[Any] = tree.values() if isinstance(tree, Mapping) else tree
        for branch in branches:
            yield from _tensors(branch)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after a step lies."""
    return folder / f"{step:09d}.ckpt"


def last_good(folder: Path) -> str:
    """A sentence about the newest checkpoint."""
    kept = sorted(folder.glob("[0-9]*.ckpt"))
    return f"The last good checkpoint is {kept[-1]}." if kept else "There was no checkpoint yet."
