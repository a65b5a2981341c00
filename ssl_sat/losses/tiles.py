"""Sums over all pairs of unit embeddings, tile by tile: the matrix of pairs is never stored.

What both contrastive losses need, for a row i and the columns k that it counts (all but a few left out):

    log-sum   L_i = log sum_k exp(s_ik / tau)
    gradient  G_i = sum_k (p_ik + p_ki) u_k,  with p_ik = exp(s_ik / tau - L_i)

The matrix of similarities is symmetric, so one process visits the tiles of its upper triangle only; several processes
visit the rectangle of their own rows. Unit vectors bound the logits by 1/tau, which serves as the constant maximum of
the soft-max, or a running maximum where exp(-2/tau) would underflow. Memory grows with M, time with M^2.

Legend: M embeddings of all processes, R those of this one, D features, K columns that a row leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RUNNING_MAX_ABOVE = 80.0  # float32 exp underflows near -87; the logits span 2/tau


def tile_size(device: torch.device) -> int:
    """Rows and columns of a tile."""
    return 2048 if device.type == "cuda" else 512  # 16 MiB and 1 MiB of float32: near the cache that reads it again


def symmetric_log_sums(u_MD: Tensor, temperature: float, left_out: Sequence[int]) -> Tensor:
    """Return L (M,) from the tiles of the upper triangle; row i leaves out the columns i + d, d in `left_out`."""
    rows, tile = len(u_MD), tile_size(u_MD.device)
    high_M = u_MD.new_full((rows,), -math.inf if _running(temperature) else 1.0 / temperature)
    sum_M = u_MD.new_zeros(rows)
    for a in range(0, rows, tile):
        u_a = u_MD[a : a + tile] / temperature
        for b in range(a, rows, tile):
            logits = _without_diagonals(u_a @ u_MD[b : b + tile].T, a - b, left_out)
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


def symmetric_gradient(u_MD: Tensor, log_sum_M: Tensor, temperature: float, left_out: Sequence[int]) -> Tensor:
    """Return G (M, D) from the tiles of the upper triangle."""
    rows, tile = len(u_MD), tile_size(u_MD.device)
    grad_MD = torch.zeros_like(u_MD)
    constant = 1.0 / temperature
    inverse_M = (constant - log_sum_M).exp()
    for a in range(0, rows, tile):
        u_a = u_MD[a : a + tile]
        scaled_a = u_a / temperature
        for b in range(a, rows, tile):
            u_b = u_MD[b : b + tile]
            logits = _without_diagonals(scaled_a @ u_b.T, a - b, left_out)
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


def rectangular_log_sums(u_RD: Tensor, u_MD: Tensor, temperature: float, left_out_RK: Tensor) -> Tensor:
    """Return L (R,) of this process's rows against all columns; row i leaves out the columns `left_out_RK[i]`."""
    tile = tile_size(u_MD.device)
    high_R = u_RD.new_full((len(u_RD),), -math.inf if _running(temperature) else 1.0 / temperature)
    sum_R = torch.zeros_like(high_R)
    for a in range(0, len(u_RD), tile):
        scaled_a = u_RD[a : a + tile] / temperature
        for b in range(0, len(u_MD), tile):
            logits = _without_columns(scaled_a @ u_MD[b : b + tile].T, left_out_RK[a : a + tile], b)
            if _running(temperature):
                _add_running(logits, high_R[a : a + tile], sum_R[a : a + tile])
            else:
                sum_R[a : a + tile] += logits.sub_(1.0 / temperature).exp_().sum(1)
    return high_R + sum_R.log()


def rectangular_gradient(
    u_RD: Tensor, u_MD: Tensor, log_sum_R: Tensor, log_sum_M: Tensor, temperature: float, left_out_RK: Tensor
) -> Tensor:
    """Return G (R, D) of this process's rows; the columns' log-sums were gathered, nothing is communicated here."""
    tile = tile_size(u_MD.device)
    grad_RD = torch.zeros_like(u_RD)
    for a in range(0, len(u_RD), tile):
        scaled_a = u_RD[a : a + tile] / temperature
        for b in range(0, len(u_MD), tile):
            u_b = u_MD[b : b + tile]
            logits = _without_columns(scaled_a @ u_b.T, left_out_RK[a : a + tile], b)
            both = (logits - log_sum_R[a : a + tile, None]).exp_()
            both += (logits - log_sum_M[None, b : b + tile]).exp_()
            grad_RD[a : a + tile].addmm_(both, u_b)
    return grad_RD


def _running(temperature: float) -> bool:
    return 2.0 / temperature > RUNNING_MAX_ABOVE


def _add_running(logits: Tensor, high: Tensor, total: Tensor) -> None:
    """Add a tile to the row sums `total`, kept relative to the running maximum `high`; both change in place."""
    new = torch.maximum(high, logits.amax(1))
    reference = new.clamp(min=torch.finfo(new.dtype).min)  # a row that has met only itself: -inf - -inf would be nan
    total.mul_((high - reference).exp()).add_((logits - reference[:, None]).exp().sum(1))
    high.copy_(new)


def _without_diagonals(logits: Tensor, row_minus_column: int, left_out: Sequence[int]) -> Tensor:
    """Put -inf where column - row is in `left_out`, for a tile that begins at the given difference."""
    for offset in left_out:
        at = offset + row_minus_column
        if -logits.shape[0] < at < logits.shape[1]:
            logits.diagonal(at).fill_(-math.inf)
    return logits


def _without_columns(logits: Tensor, left_out_RK: Tensor, first_column: int) -> Tensor:
    """Put -inf at the columns that each row leaves out; columns of the tile start at `first_column`."""
    columns = torch.arange(first_column, first_column + logits.shape[1], device=logits.device)
    for column_R in left_out_RK.unbind(1):
        logits.masked_fill_(column_R[:, None] == columns[None], -math.inf)
    return logits
