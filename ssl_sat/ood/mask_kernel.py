"""Keyed dropout of float32 rows on a CPU, compiled: hash, compare and multiply in one sweep, no mask in memory.

The bits are those of `keyed_dropout.uniform_bits`, where the hash is described.
"""

# B rows (one per sample and pass), W elements a row

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from torch import Tensor

_U = np.uint32
_GOLDEN, _A, _B = _U(2654435769), _U(0x7FEB352D), _U(0x846CA68B)


def drop(x_NW: Tensor, low_B: Tensor, high_B: Tensor, p: float) -> Tensor:
    """Return (B, W): x / (1 - p) where an element stays and x * 0 elsewhere; row b is row b modulo N of x.

    An element stays when its bits, as int32, reach the threshold of p.
    """
    out_BW = x_NW.new_empty(len(low_B), x_NW.shape[1])
    keys = low_B.numpy().view(np.uint32), high_B.numpy().view(np.uint32)
    threshold, scale = np.int64(round(p * 2**32) - 2**31), np.float32(1) / np.float32(1 - p)
    _drop(out_BW.numpy(), x_NW.detach().contiguous().numpy(), *keys, threshold, scale)
    return out_BW


def _compiled(function: Any) -> Any:
    """numba's njit without the interpreter lock; machine code is kept on disk where a folder can be written to."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@_compiled
def _drop(out: np.ndarray, x: np.ndarray, low: np.ndarray, high: np.ndarray, threshold: int, scale: np.float32) -> None:
    width, samples = x.shape[1], x.shape[0]
    limit, nothing = np.int32(threshold), np.float32(0.0)
    for b in range(out.shape[0]):
        first, second, source = low[b], high[b], x[b % samples]
        for w in range(width):
            bits = _U(_U(w) * _GOLDEN) ^ first
            bits = _U(bits ^ (bits >> _U(16)))
            bits = _U(bits * _A)
            bits = _U(bits ^ (bits >> _U(15)))
            bits = _U(bits * _B)
            bits = _U(bits ^ (bits >> _U(16)))
            bits = _U(bits + second)
            bits = _U(bits ^ (bits >> _U(16)))
            bits = _U(bits * _A)
            bits = _U(bits ^ (bits >> _U(15)))
            bits = _U(bits * _B)
            bits = _U(bits ^ (bits >> _U(16)))
            out[b, w] = source[w] * (scale if np.int32(bits) >= limit else nothing)
