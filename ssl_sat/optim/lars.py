"""LARS: a rate per layer, for large batches (You et al. 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """SGD with momentum whose step is scaled per tensor by trust * |w| / |g + decay * w|.

    As in SimCLR's published optimiser: the decay enters the norm below the line, and the rate enters the momentum
    buffer. Groups with `use_trust=False` (norms, biases) take plain momentum steps. All tensors of a group are
    updated together (foreach); nothing waits for the device.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "use_trust": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(group, weights)
        return loss

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        grads = [p.grad for p in weights if p.grad is not None]
        updates = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
        if group["use_trust"]:
            torch._foreach_mul_(updates, _trust_ratios(weights, updates, group["trust"]))  # type: ignore[arg-type]
        for p in weights:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in weights]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates, alpha=group["lr"])
        torch._foreach_sub_(weights, buffers)


def _trust_ratios(weights: list[Tensor], updates: list[Tensor], trust: float) -> list[Tensor]:
    """trust * |w| / |u| per tensor, and 1 where either norm is 0."""
    weight_norm = torch.stack(torch._foreach_norm(weights))
    update_norm = torch.stack(torch._foreach_norm(updates))
    usable = (weight_norm > 0) & (update_norm > 0)
    ratio = torch.where(usable, trust * weight_norm / update_norm.where(usable, 1.0), 1.0)
    return list(ratio.unbind())
