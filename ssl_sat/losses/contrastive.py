"""The mean over all embeddings of  -(similarity to the other views of the patch) / tau + L,  exact across processes.

L is the log-sum over the columns that an embedding counts: all others (NT-Xent), or those of other patches (DCL).
With more than two views the first term is the mean over the other views. Forward saves the unit embeddings and one
log-sum per row; backward recomputes the tiles from them.

Legend: N pairs (patches), V views, M = V * N embeddings of all processes (view-major), R those of this one, D features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ssl_sat.losses import tiles
from ssl_sat.losses.gather import gather_rows, gather_views, is_distributed
from ssl_sat.precision import full_float32


def contrastive(z_VND: Tensor, temperature: float, *, decoupled: bool, gather: bool) -> Tensor:
    """Return the loss, float32 (float64 for float64 input) whatever the precision around it; see nt_xent and dcl."""
    if z_VND.ndim != 3 or z_VND.shape[0] < 2:
        raise ValueError(f"contrastive losses take embeddings of shape (V, N, D), V >= 2, got {tuple(z_VND.shape)}")
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    distributed = gather and is_distributed()
    if decoupled and z_VND.shape[1] * (dist.get_world_size() if distributed else 1) < 2:
        raise ValueError("a decoupled loss needs two patches or more: without negatives it has no value")
    with full_float32(z_VND.device):
        z_VND = z_VND if z_VND.dtype == torch.float64 else z_VND.float()
        u_VND = functional.normalize(z_VND, dim=-1)
        return _Contrastive.apply(u_VND, float(temperature), decoupled, distributed)


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u_VND: Tensor, temperature: float, decoupled: bool, distributed: bool) -> Tensor:
        u_RD = u_VND.reshape(-1, u_VND.shape[-1])
        positive_R = (u_VND * _others(u_VND)).sum(-1).flatten() / temperature
        with full_float32(u_VND.device):
            if distributed:
                u_all_VND = gather_views(u_VND)
                u_MD = u_all_VND.flatten(0, 1)
                left_out = _columns(u_VND, u_all_VND.shape[1], decoupled)
                log_sum_R = tiles.rectangular_log_sums(u_RD, u_MD, temperature, left_out)
                log_sum_M = gather_rows(log_sum_R, u_VND.shape[1])
            else:
                u_MD = u_RD
                log_sum_R = log_sum_M = tiles.symmetric_log_sums(u_RD, temperature, _offsets(u_VND, decoupled))
        ctx.save_for_backward(u_VND, u_MD, log_sum_R, log_sum_M)
        ctx.temperature, ctx.decoupled, ctx.distributed = temperature, decoupled, distributed
        return (log_sum_R - positive_R).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u_VND, u_MD, log_sum_R, log_sum_M = ctx.saved_tensors
        u_RD = u_VND.reshape(-1, u_VND.shape[-1])
        with full_float32(u_RD.device):
            if ctx.distributed:
                left_out = _columns(u_VND, len(u_MD) // len(u_VND), ctx.decoupled)
                grad_RD = tiles.rectangular_gradient(u_RD, u_MD, log_sum_R, log_sum_M, ctx.temperature, left_out)
            else:
                offsets = _offsets(u_VND, ctx.decoupled)
                grad_RD = tiles.symmetric_gradient(u_RD, log_sum_R, ctx.temperature, offsets)
        # An embedding meets its other views twice: in its own term and in theirs.
        grad_VND = grad_RD.view(u_VND.shape).sub_(_others(u_VND), alpha=2.0)
        grad_VND.mul_(grad / (ctx.temperature * len(u_RD)))  # local mean: DDP averages over processes
        return grad_VND, None, None, None


def _others(u_VND: Tensor) -> Tensor:
    """Mean of the other views of the same patch, (V, N, D)."""
    views = len(u_VND)
    rolled = [u_VND.roll(k, 0) for k in range(1, views)]
    return rolled[0] if views == 2 else torch.stack(rolled).sum(0) / (views - 1)


def _offsets(u_VND: Tensor, decoupled: bool) -> list[int]:
    """Column - row of what a row leaves out: itself, and with a decoupled loss the other views of its patch."""
    views, pairs, _ = u_VND.shape
    return [k * pairs for k in range(1 - views, views)] if decoupled else [0]


def _columns(u_VND: Tensor, pairs_all: int, decoupled: bool) -> Tensor:
    """The same as columns of all M, (R, K): view v, pair n of rank w is column v * pairs_all + w * N + n."""
    views, pairs, _ = u_VND.shape
    own_N = torch.arange(pairs, device=u_VND.device) + dist.get_rank() * pairs
    own_VN = own_N + pairs_all * torch.arange(views, device=u_VND.device)[:, None]
    if not decoupled:
        return own_VN.reshape(-1, 1)
    return own_VN.T.expand(views, -1, -1).reshape(-1, views)
