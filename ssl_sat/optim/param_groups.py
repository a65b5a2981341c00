"""Which parameters decay. Norms, biases and position tokens are spared, from LARS's trust ratio as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

TOKENS = ("cls_token", "pos_embed", "reg_token", "dist_token")  # as timm's no_weight_decay of its ViTs


def is_spared(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is spared: vectors and scalars (norms, biases, scales) and tokens."""
    return parameter.ndim <= 1 or name.rpartition(".")[2] in TOKENS


def param_groups(
    named_params: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return up to two groups of the trainable parameters, `decay` and `spared`, with rate, decay and trust flag."""
    trainable = [(name, parameter) for name, parameter in named_params if parameter.requires_grad]
    decay = [parameter for name, parameter in trainable if not is_spared(name, parameter)]
    spared = [parameter for name, parameter in trainable if is_spared(name, parameter)]
    groups = [
        {"name": "decay", "params": decay, "lr": lr, "weight_decay": weight_decay, "use_trust": True},
        {"name": "spared", "params": spared, "lr": lr, "weight_decay": 0.0, "use_trust": False},
    ]
    return [group for group in groups if group["params"]]
