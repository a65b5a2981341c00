"""NT-Xent, the loss of SimCLR (Chen et al. 2020, equation 1 and algorithm 1).

For each of the 2N views i with partner p(i), all views k != i as candidates and s the cosine similarity:

    l(i) = -log( exp(s_i,p(i) / tau) / sum_{k != i} exp(s_ik / tau) ),    loss = mean over the 2N views

How this differs from a literal transcription: the (2N, 2N) matrix is never stored. It is symmetric, so only tiles of
its upper triangle are visited; unit vectors bound the logits by 1/tau, which serves as the constant maximum of the
soft-max (a running maximum where exp(-2/tau) would underflow); backward recomputes the tiles from the saved
embeddings and row-wise log-sums. Memory grows linearly with N.

Legend: N pairs, V = 2 views, M = 2N embeddings (view-major), D features, W processes. `_R` rows of this process.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ssl_sat.losses.gather import gather_rows, gather_views, is_distributed
from ssl_sat.precision import full_float32

RUNNING_MAX_ABOVE = 80.0  # float32 exp underflows near -87; the logits span 2/tau


def nt_xent(z_VND: Tensor, temperature: float, *, gather: bool = False) -> Tensor:
    """Return the NT-Xent loss of two views, a scalar, as the mean over all 2N embeddings.

    `z_VND` (2, N, D) needs no normalisation: it is L2-normalised here. Similarities are float32 even under autocast
    and for bf16 input, float64 for float64 input. With `gather` and a process group, the embeddings of all processes
    are candidates; the value is then the mean over this process's rows, and the gradients of a DistributedDataParallel
    model, which averages over processes, equal those of the global loss exactly. Every process must bring the same N.
    """
    if z_VND.ndim != 3 or z_VND.shape[0] != 2:
        raise ValueError(f"nt_xent takes embeddings of shape (2, N, D), got {tuple(z_VND.shape)}")
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")
    with full_float32(z_VND.device):
        z_VND = z_VND if z_VND.dtype == torch.float64 else z_VND.float()
        u_VND = functional.normalize(z_VND, dim=-1)
        return _NTXent.apply(u_VND, float(temperature), gather and is_distributed())


def nt_xent_floor(num_pairs: int, temperature: float) -> float:
    """Return the smallest value NT-Xent can take: N pairs at the corners of a regular simplex (needs D >= N - 1)."""
    if num_pairs < 2:
        return 0.0
    gap = num_pairs / ((num_pairs - 1) * temperature)
    return math.log1p((2 * num_pairs - 2) * math.exp(-gap))


def nt_xent_collapse(num_pairs: int) -> float:
    """Return the value of NT-Xent when all embeddings are equal: log(2N - 1)."""
    return math.log(2 * num_pairs - 1)


class _NTXent(torch.autograd.Function):
    """Tiled forward and backward; saves the unit embeddings and one log-sum per row, nothing of size M x M."""

    @staticmethod
    def forward(ctx: Any, u_VND: Tensor, temperature: float, distributed: bool) -> Tensor:
        num_pairs, rank = u_VND.shape[1], 0
        u_all_VND = u_VND
        if distributed:
            u_all_VND, rank = gather_views(u_VND), dist.get_rank()
        u_RD, u_MD = u_VND.reshape(-1, u_VND.shape[-1]), u_all_VND.reshape(-1, u_VND.shape[-1])
        own = _Rows(num_pairs, u_all_VND.shape[1], rank)
        positive_R = (u_RD * u_MD[own.partner(u_RD.device)]).sum(1) / temperature
        with full_float32(u_VND.device):
            sums = _symmetric_log_sums if not distributed else _rectangular_log_sums
            log_sum_R = sums(u_RD, u_MD, temperature, own)
        log_sum_M = log_sum_R if not distributed else gather_rows(log_sum_R, num_pairs)
        ctx.save_for_backward(u_RD, u_MD, log_sum_R, log_sum_M)
        ctx.temperature, ctx.own, ctx.distributed = temperature, own, distributed
        return (log_sum_R - positive_R).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u_RD, u_MD, log_sum_R, log_sum_M = ctx.saved_tensors
        with full_float32(u_RD.device):
            if ctx.distributed:
                grad_RD = _rectangular_gradient(u_RD, u_MD, log_sum_R, log_sum_M, ctx.temperature, ctx.own)
            else:
                grad_RD = _symmetric_gradient(u_RD, log_sum_R, ctx.temperature)
        # Row i meets its partner twice: in its own term and in the partner's.
        grad_RD.sub_(u_MD[ctx.own.partner(u_RD.device)], alpha=2.0)
        grad_RD.mul_(grad / (ctx.temperature * len(u_RD)))  # local mean: DDP averages over processes
        return grad_RD.view(2, -1, u_RD.shape[1]), None, None


class _Rows:
    """Where the rows of this process stand among all M: view v, pair n of rank w is row v * W * N + w * N + n."""

    def __init__(self, num_pairs: int, num_pairs_all: int, rank: int) -> None:
        self.num_pairs, self.num_pairs_all, self.first = num_pairs, num_pairs_all, rank * num_pairs

    def position(self, device: torch.device) -> Tensor:
        """Column of each local row itself, the one that is masked."""
        own_N = torch.arange(self.first, self.first + self.num_pairs, device=device)
        return torch.cat([own_N, own_N + self.num_pairs_all])

    def partner(self, device: torch.device) -> Tensor:
        """Column of each local row's other view."""
        own_N = torch.arange(self.first, self.first + self.num_pairs, device=device)
        return torch.cat([own_N + self.num_pairs_all, own_N])


def _tile(device: torch.device) -> int:
    return 2048 if device.type == "cuda" else 512  # 16 MiB and 1 MiB of float32: near the cache that reads it again


def _running(temperature: float) -> bool:
    return 2.0 / temperature > RUNNING_MAX_ABOVE


def _symmetric_log_sums(u_MD: Tensor, _: Tensor, temperature: float, __: _Rows) -> Tensor:
    """Log of the sum over k != i of exp(s_ik / tau) for every row, from the tiles of the upper triangle."""
    rows, tile = len(u_MD), _tile(u_MD.device)
    high_M = u_MD.new_full((rows,), -math.inf if _running(temperature) else 1.0 / temperature)
    sum_M = u_MD.new_zeros(rows)
    for a in range(0, rows, tile):
        u_a = u_MD[a : a + tile] / temperature
        for b in range(a, rows, tile):
            logits = u_a @ u_MD[b : b + tile].T
            if a == b:
                logits.fill_diagonal_(-math.inf)
            if not _running(temperature):
                exp = logits.sub_(1.0 / temperature).exp_()
                sum_M[a : a + tile] += exp.sum(1)
                if a != b:
                    sum_M[b : b + tile] += exp.sum(0)
            else:
                _add_running(logits, high_M[a : a + tile], sum_M[a : a + tile])
                if a != b:
                    _add_running(logits.T, high_M[b : b + tile], sum_M[b : b + tile])
    return high_M + sum_M.log()


def _add_running(logits: Tensor, high: Tensor, total: Tensor) -> None:
    """Add a tile to the row sums `total`, kept relative to the running maximum `high`; both change in place."""
    new = torch.maximum(high, logits.amax(1))
    reference = new.clamp(min=torch.finfo(new.dtype).min)  # a row that has met only itself: -inf - -inf would be nan
    total.mul_((high - reference).exp()).add_((logits - reference[:, None]).exp().sum(1))
    high.copy_(new)


def _symmetric_gradient(u_MD: Tensor, log_sum_M: Tensor, temperature: float) -> Tensor:
    """Sum over j of (p_ij + p_ji) u_j, with p_ij = exp(s_ij / tau - log_sum_i), from the upper triangle."""
    rows, tile = len(u_MD), _tile(u_MD.device)
    grad_MD = torch.zeros_like(u_MD)
    constant = 1.0 / temperature
    inverse_M = (constant - log_sum_M).exp()
    for a in range(0, rows, tile):
        u_a = u_MD[a : a + tile]
        scaled_a = u_a / temperature
        for b in range(a, rows, tile):
            u_b = u_MD[b : b + tile]
            logits = scaled_a @ u_b.T
            if a == b:
                logits.fill_diagonal_(-math.inf)
            if _running(temperature):
                both = (logits - log_sum_M[a : a + tile, None]).exp_()
                both += (logits - log_sum_M[None, b : b + tile]).exp_()
            else:
                both = logits.sub_(constant).exp_()
                both *= inverse_M[a : a + tile, None] + inverse_M[None, b : b + tile]
            grad_MD[a : a + tile].addmm_(both, u_b)
            if a != b:
                grad_MD[b : b + tile].addmm_(both.T, u_a)
    return grad_MD


def _rectangular_log_sums(u_RD: Tensor, u_MD: Tensor, temperature: float, own: _Rows) -> Tensor:
    """The same log-sums for this process's rows against all columns."""
    tile, position_R = _tile(u_MD.device), own.position(u_RD.device)
    high_R = u_RD.new_full((len(u_RD),), -math.inf if _running(temperature) else 1.0 / temperature)
    sum_R = torch.zeros_like(high_R)
    for a in range(0, len(u_RD), tile):
        scaled_a = u_RD[a : a + tile] / temperature
        for b in range(0, len(u_MD), tile):
            logits = _masked(scaled_a @ u_MD[b : b + tile].T, position_R[a : a + tile], b)
            if _running(temperature):
                _add_running(logits, high_R[a : a + tile], sum_R[a : a + tile])
            else:
                sum_R[a : a + tile] += logits.sub_(1.0 / temperature).exp_().sum(1)
    return high_R + sum_R.log()


def _rectangular_gradient(
    u_RD: Tensor, u_MD: Tensor, log_sum_R: Tensor, log_sum_M: Tensor, temperature: float, own: _Rows
) -> Tensor:
    """The same sum for this process's rows; the columns' log-sums were gathered, so nothing is communicated here."""
    tile, position_R = _tile(u_MD.device), own.position(u_RD.device)
    grad_RD = torch.zeros_like(u_RD)
    for a in range(0, len(u_RD), tile):
        scaled_a = u_RD[a : a + tile] / temperature
        for b in range(0, len(u_MD), tile):
            u_b = u_MD[b : b + tile]
            logits = _masked(scaled_a @ u_b.T, position_R[a : a + tile], b)
            both = (logits - log_sum_R[a : a + tile, None]).exp_()
            both += (logits - log_sum_M[None, b : b + tile]).exp_()
            grad_RD[a : a + tile].addmm_(both, u_b)
    return grad_RD


def _masked(logits: Tensor, position: Tensor, first_column: int) -> Tensor:
    """Put -inf where a row meets itself; columns of the tile start at `first_column`."""
    columns = torch.arange(first_column, first_column + logits.shape[1], device=logits.device)
    return logits.masked_fill_(position[:, None] == columns[None], -math.inf)
