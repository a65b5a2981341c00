"""Lightning's Trainer, set up so that a killed run continues to the bit (see docs/architecture.md, 'Resume')."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file, save

from ssl_sat.artifact import write_atomic
from ssl_sat.provenance import device_facts
from ssl_sat.ranks import agreed, is_main_process
from ssl_sat.seeding import key
from ssl_sat.spec import ConfigError
from ssl_sat.stage import record_facts
from ssl_sat.training import distribution, loggers
from ssl_sat.training.callbacks import History, PlainProgress
from ssl_sat.training.checkpoints import AtomicCheckpointIO, checkpoint_callback, newest
from ssl_sat.training.spec import TrainerSpec
from ssl_sat.training.survival import Survival


def prepare(spec: TrainerSpec, out: Path) -> None:
    """Set the thread count and record the devices."""
    distribution.die_with_parent()
    loggers.check(spec)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(spec.threads))  # without it Lightning's launcher sets its own
    warnings.filterwarnings("ignore", ".*IterableDataset.*__len__.*")
    warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*module.* in eval mode.*")  # frozen parts are, on purpose
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    record_facts(out, device=device_facts())


def fit(
    module: pl.LightningModule,
    spec: TrainerSpec,
    out: Path,
    *,
    epochs: int,
    label: str,
    phase: str = "",
    callbacks: Sequence[pl.Callback] = (),
    accumulate: int = 1,
) -> None:
    """Train for `epochs`, from the newest checkpoint under `out/checkpoints/<phase>` if there is one.

    When it returns, the module holds the weights of the last step.
    """
    folder = out / "checkpoints" / (phase or "run")
    found = agreed(f"checkpoint of {phase or label}", lambda: str(newest(folder) or ""), out)
    resume = Path(found) if found else None
    history = History(out / "history.jsonl", spec.log_every_n_steps, phase)
    trainer = _trainer(
        spec,
        max_epochs=epochs,
        check_val_every_n_epoch=spec.validate_every_n_epochs,
        accumulate_grad_batches=accumulate,
        logger=loggers.build(spec, out, phase, int(resume.stem) if resume else None),
        callbacks=[
            distribution.Agreement(out, resume),
            history,
            *callbacks,
            Survival(folder, spec.log_every_n_steps),
            *_progress(spec, label),
            checkpoint_callback(folder, spec.checkpoint_every_n_steps),
        ],
        default_root_dir=folder,
    )
    distribution.check_world(trainer, spec)
    distribution.check_batch_norm(trainer, module, spec)
    try:
        trainer.fit(module, ckpt_path=str(resume) if resume else None)
    except BaseException:
        if trainer.strategy.launcher is not None:  # those that it started would wait for this process for ever
            trainer.strategy.launcher.kill(signal.SIGKILL)
        raise


def _trainer(spec: TrainerSpec, **options: Any) -> pl.Trainer:
    """Lightning's Trainer; ConfigError for a combination that it refuses."""
    try:
        trainer = pl.Trainer(
            accelerator=spec.accelerator,
            devices=distribution.devices(spec),
            num_nodes=spec.num_nodes,
            strategy=spec.strategy,
            precision=spec.precision,
            gradient_clip_val=spec.clip_norm,
            plugins=[AtomicCheckpointIO(), *([distribution.SyncedBatchNorm()] if spec.sync_batchnorm else [])],
            enable_progress_bar=spec.progress and sys.stdout.isatty(),
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # History decides what is logged when
            **options,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error
    # Lightning asks all processes in every step whether one got SIGTERM, and waits for the answer; Survival does it
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _progress(spec: TrainerSpec, label: str) -> list[pl.Callback]:
    if not spec.progress:
        return []
    return [RichProgressBar(leave=True)] if sys.stdout.isatty() else [PlainProgress(label)]


def progress_of(trainer: Any) -> tuple[int, int]:
    """Epoch and batches processed in it; `completed` would lag, since it counts after a checkpoint is saved."""
    return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.processed


def reseed(seed: int, module: pl.LightningModule, batch_idx: int) -> None:
    """Seed torch for this step by key, so that dropout after a resume is that of an uninterrupted run.

    The one place that seeds globally: dropout layers of third-party encoders draw from the global generator.
    """
    torch.manual_seed(key(seed, "step", module.current_epoch, batch_idx, module.global_rank))


def mark_done(out: Path, phase: str, state: Mapping[str, torch.Tensor]) -> None:
    """Keep the weights that a phase ended with, so that a later kill does not cost it again."""
    if not is_main_process():
        return
    folder = out / "checkpoints" / phase
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.ckpt"):
        path.unlink()
    write_atomic(folder / "done.safetensors", save({name: t.detach().cpu().contiguous() for name, t in state.items()}))


def is_done(out: Path, phase: str) -> bool:
    """Whether a phase has ended."""
    return (out / "checkpoints" / phase / "done.safetensors").is_file()


def load_done(out: Path, phase: str) -> dict[str, torch.Tensor]:
    """Weights that a phase ended with."""
    return load_file(out / "checkpoints" / phase / "done.safetensors")


def clear(out: Path) -> None:
    """Remove the checkpoints of a finished stage; its weights are in the artifact."""
    if is_main_process():
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
