"""Optimisers, parameter groups and the schedule of the learning rate. Torch is imported only when one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssl_sat.optim.spec import OptimSpec
from ssl_sat.registry import Registry

if TYPE_CHECKING:
    from torch.optim import Optimizer

OPTIMIZERS = Registry("optimiser")
for _name in ("adamw", "adam", "sgd", "lars"):
    OPTIMIZERS.add(_name, "ssl_sat.optim.build:build_optimizer", OptimSpec, version=1)


def build_optimizer(spec: OptimSpec, params: Any, global_batch: int) -> Optimizer:
    """See `ssl_sat.optim.build.build_optimizer`."""
    return OPTIMIZERS.build(spec, params=params, global_batch=global_batch)


CODE = tuple(f"ssl_sat.optim.{name}" for name in ("build", "schedule", "param_groups", "lars", "ema"))
