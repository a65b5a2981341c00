"""Build an optimiser from its spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ssl_sat.optim.lars import LARS
from ssl_sat.optim.param_groups import param_groups
from ssl_sat.optim.schedule import scaled_lr
from ssl_sat.optim.spec import OptimSpec


def build_optimizer(
    spec: OptimSpec, params: Iterable[tuple[str, nn.Parameter]] | Iterable[Mapping[str, Any]], global_batch: int
) -> Optimizer:
    """Return the optimiser with its peak rate scaled to `global_batch`, norms and biases spared from decay.

    `params` is either (name, parameter) pairs, or mappings with `named_params` (such pairs) and optionally `lr_scale`,
    a factor on the rate of that group (for layer-wise rates). Frozen parameters are left out.
    Raises ValueError where nothing is trainable.
    """
    lr_peak = scaled_lr(spec.lr, global_batch, spec.base_batch, spec.scale)
    groups: list[dict[str, Any]] = []
    for part in _parts(params):
        lr = lr_peak * float(part.get("lr_scale", 1.0))
        groups += param_groups(part["named_params"], lr, spec.weight_decay)
    if not groups:
        raise ValueError("no parameter is trainable")
    if spec.name == "lars":
        return LARS(groups, lr=lr_peak, momentum=spec.momentum, trust=spec.trust)
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=lr_peak, momentum=spec.momentum)
    fused = all(parameter.device.type in ("cuda", "cpu") for group in groups for parameter in group["params"])
    kind = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr_peak, betas=spec.betas, fused=fused or None)


def _parts(params: Iterable[Any]) -> list[Mapping[str, Any]]:
    listed = list(params)
    if listed and isinstance(listed[0], Mapping):
        return listed
    return [{"named_params": listed}]
