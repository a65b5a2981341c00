"""The matrix products of a view on a CPU, where most of their entries are zeros: only the taps are visited.

Reads the integers of the pack directly, and turns right angles while it writes.

Legend: N patches, C bands, H x W pixels in, S x S pixels out, X pixels in along one axis, T taps of the blur.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


def separable_into(
    out_NCSS: Tensor,
    x_NCHW: Tensor,
    rows_NSH: Tensor,
    columns_NSW: Tensor,
    transpose_N: Tensor | None,
    take: list[int],
    place: list[int],
) -> None:
    """Write W_y X W_x^T of the bands `take` of x into the channels `place` of out, transposed where marked.

    int16 holds the bits of uint16. Equal to `geometric.separable` but for the order of summation.
    """
    x = x_NCHW.contiguous().numpy()
    x = x.view(np.uint16) if x.dtype == np.int16 else x
    marked = transpose_N if transpose_N is not None else torch.zeros(len(x), dtype=torch.bool)
    rows, columns = rows_NSH.contiguous().numpy(), columns_NSW.contiguous().numpy()
    _separable(out_NCSS.numpy(), x, rows, columns, marked.numpy(), np.array(take), np.array(place))


def resample_matrix(
    start_N: Tensor, length_N: Tensor, size_in: int, size_out: int, flip_N: Tensor | None, taps_NT: Tensor | None
) -> Tensor:
    """Return (N, S, X): `geometric.resample_matrix`, mirrored where marked, then blurred with reflected borders.

    Equal to the products of `geometric` but for the order of summation; only entries that are not zero are computed.
    """
    n = len(start_N)
    flip = torch.zeros(n, dtype=torch.bool) if flip_N is None else flip_N
    taps = torch.ones(n, 1) if taps_NT is None else taps_NT
    out = np.zeros((n, size_out, size_in), np.float32)
    _resample(out, start_N.float().numpy(), length_N.float().numpy(), flip.numpy(), taps.contiguous().numpy())
    return torch.from_numpy(out)


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """numba's njit without the interpreter lock; its machine code is kept on disk, where a folder can be written to.

    Compiling takes seconds, and every process of a run would pay them again.
    """

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither beside the module nor in the user's cache
            return numba.njit(nogil=True, **options)(function)

    return decorate


@_compiled()
def _resample(out: np.ndarray, start: np.ndarray, length: np.ndarray, flip: np.ndarray, taps: np.ndarray) -> None:
    size, width, radius = out.shape[1], out.shape[2], taps.shape[1] // 2
    plain = np.empty((size, width), np.float32)
    first, last = np.empty(size, np.int64), np.empty(size, np.int64)
    one, half, edge = np.float32(1.0), np.float32(0.5), np.float32(1e-3)
    for n in range(out.shape[0]):
        step = length[n] / np.float32(size)
        reach = max(step, one)
        for s in range(size):
            row = size - 1 - s if flip[n] else s
            centre = step * (np.float32(s) + half)
            at = math.floor(start[n] + centre - half)
            low, high = max(0, at - math.ceil(reach)), min(width, at + math.ceil(reach) + 2)
            total = np.float32(0.0)
            for w in range(low, high):
                pixel = np.float32(w) - start[n]
                weight = one - abs(pixel + half - centre) / reach
                if weight <= 0.0 or pixel + one <= edge or pixel - length[n] >= -edge:
                    weight = np.float32(0.0)
                plain[row, w] = weight
                total += weight
            first[row], last[row] = low, high
            for w in range(low, high):
                plain[row, w] /= total
        identity = taps[n, radius] == 1.0
        for s in range(size):
            for t in range(-radius, radius + 1):
                if identity and t != 0:
                    continue
                source = abs(s + t)
                if source >= size:
                    source = 2 * (size - 1) - source
                for w in range(first[source], last[source]):
                    out[n, s, w] += taps[n, t + radius] * plain[source, w]


@_compiled()
def _taps(weights: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[int, int]:
    """Fill the range of non-zero entries of each row; return the range over all rows."""
    low, high = weights.shape[1], 0
    for row in range(weights.shape[0]):
        start, stop = 0, weights.shape[1]
        while start < stop and weights[row, start] == 0.0:
            start += 1
        while stop > start and weights[row, stop - 1] == 0.0:
            stop -= 1
        first[row], last[row] = start, stop
        low, high = min(low, start), max(high, stop)
    return low, high


@_compiled(fastmath={"contract"})
def _separable(
    out: np.ndarray, x: np.ndarray, rows: np.ndarray, columns: np.ndarray, transpose: np.ndarray, take: np.ndarray,
    place: np.ndarray,
) -> None:  # fmt: skip
    size, width = rows.shape[1], x.shape[3]
    first_y, last_y = np.empty(size, np.int64), np.empty(size, np.int64)
    first_x, last_x = np.empty(size, np.int64), np.empty(size, np.int64)
    line = np.empty(width, np.float32)
    turned = np.empty((width, size), np.float32)  # rows resampled, transposed: the second pass is contiguous too
    result = np.empty((size, size), np.float32)
    for n in range(x.shape[0]):
        _taps(rows[n], first_y, last_y)
        low, high = _taps(columns[n], first_x, last_x)
        span = high - low
        for k in range(len(take)):
            image, view = x[n, take[k]], out[n, place[k]]
            for o in range(size):
                line[:span] = 0.0
                for h in range(first_y[o], last_y[o]):
                    weight, source = rows[n, o, h], image[h, low:high]
                    for w in range(span):  # from 0: a range that could be negative would not become vector code
                        line[w] += weight * np.float32(source[w])
                for w in range(span):
                    turned[w, o] = line[w]
            for p in range(size):
                target = result[p]
                target[:] = 0.0
                for w in range(first_x[p], last_x[p]):
                    weight, column = columns[n, p, w], turned[w - low]
                    for o in range(size):
                        target[o] += weight * column[o]
            if transpose[n]:
                view[:] = result
            else:
                view[:] = result.T
