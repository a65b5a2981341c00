"""Several devices: how many, whether they agree, and batch norm over the batch of all of them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.layer_sync import LayerSync
from timm.layers import convert_sync_batchnorm
from torch import nn

from ssl_sat.ranks import started_by_main
from ssl_sat.spec import ConfigError
from ssl_sat.training.spec import TrainerSpec


def devices(spec: TrainerSpec) -> int | str:
    """Devices of this node: torchrun's number where it launched us; one process on a CPU, whose threads use every core.

    Raises ConfigError where the configuration and torchrun disagree.
    """
    if "LOCAL_WORLD_SIZE" in os.environ and "RANK" in os.environ:
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if spec.devices not in ("auto", here, str(here)) or here * spec.num_nodes != everywhere:
            raise ConfigError(
                f"trainer.devices={spec.devices} trainer.num_nodes={spec.num_nodes} was asked for, but torchrun "
                f"started {everywhere} processes, {here} on this node; set trainer.num_nodes={everywhere // here} and "
                f"leave trainer.devices out, or change torchrun's --nnodes and --nproc-per-node."
            )
        return here
    if spec.devices == "auto" and (spec.accelerator == "cpu" or not _has_accelerator()):
        return 1
    return spec.devices


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def check_world(trainer: pl.Trainer, spec: TrainerSpec) -> None:
    """ConfigError when another number of processes runs than was asked for."""
    if isinstance(spec.devices, int) and trainer.world_size != spec.devices * spec.num_nodes:
        raise ConfigError(
            f"trainer.devices={spec.devices} on trainer.num_nodes={spec.num_nodes} was asked for, "
            f"but {trainer.world_size} processes run; check the launcher (torchrun, srun)."
        )


def check_batch_norm(trainer: pl.Trainer, module: nn.Module, spec: TrainerSpec) -> None:
    """ConfigError when batch norm would have to be synchronised between processes on the CPU, which torch cannot."""
    trains = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and _trains(m)]
    if spec.sync_batchnorm and trains and trainer.world_size > 1 and trainer.strategy.root_device.type != "cuda":
        raise ConfigError(
            f"{len(trains)} batch norm layers cannot be synchronised between {trainer.world_size} processes on the "
            f"{trainer.strategy.root_device.type}. Use one process (its threads use all cores), a network without "
            f"batch norm (encoder=vit_tiny method.head_batch_norm=false), or trainer.sync_batchnorm=false, with which "
            f"each process normalises by its own share and the result depends on their number."
        )


def _trains(module: Any) -> bool:
    return not module.affine or module.weight.requires_grad


class SyncedBatchNorm(LayerSync):
    """timm's conversion. torch's own makes plain batch norm of timm's BatchNormAct2d and so drops its activation."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise every batch norm; parameters stay the same objects. Done once: phases share the network."""
        done = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
        return model if done else convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave the layers as they are: alone and in eval mode they are plain batch norm."""
        return model


class Agreement(pl.Callback):
    """All processes make the same artifact from the same checkpoint, or none does."""

    def __init__(self, out: Path, resume: Path | None) -> None:
        self.what = f"{out.name} from {resume.name if resume else 'the start'}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare; ConfigError names what differs."""
        if trainer.world_size < 2:
            return
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, self.what)
        if len(found) != trainer.world_size or len(set(found)) > 1:
            listed = "; ".join(f"{found.count(name)} make {name}" for name in sorted(set(found)))
            raise ConfigError(
                f"the {len(found)} processes disagree: {listed}. Name data and starting artifact by their paths "
                f"(pack=..., init=...), and see that all nodes have the same files and options."
            )


def die_with_parent() -> None:
    """Let the kernel end a process that Lightning started when the one that started it is killed (Linux)."""
    if not started_by_main() or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() == 1:
        raise SystemExit(137)
