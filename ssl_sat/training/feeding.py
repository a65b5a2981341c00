"""The loader of a training run: rank, device and tier as the Trainer and its spec say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Pack
from ssl_sat.training.spec import TrainerSpec


def patch_loader(
    trainer: Any, spec: TrainerSpec, pack: Pack, rows: np.ndarray, batch_size: int, *, seed: int, train: bool,
    drop_last: bool = False, accumulate: int = 1, progress: Callable[[], tuple[int, int]] | None = None,
    report: bool = True, draw: Callable[[int], np.ndarray] | None = None,
) -> PatchLoader:  # fmt: skip
    """Shuffled batches to train on (or as `draw` says, see PatchLoader), or rows in order to evaluate.

    Only training may take device memory for its patches; what is read once per epoch comes through the ring.
    """
    tier = spec.data_tier if train or spec.data_tier != "device" else "auto"
    return PatchLoader(
        pack, rows, batch_size, seed=seed, shuffle=train, draw=draw, drop_last=drop_last, accumulate=accumulate,
        rank=trainer.global_rank, world_size=trainer.world_size, progress=progress,
        device=trainer.strategy.root_device, tier=tier, depth=spec.data_ahead, local_ranks=_ranks_of_node(trainer),
        epochs=trainer.max_epochs, report=_say if report and train and trainer.is_global_zero else None,
    )  # fmt: skip


def _ranks_of_node(trainer: Any) -> int:
    return max(1, trainer.world_size // max(1, trainer.num_nodes))


def _say(line: str) -> None:
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()
