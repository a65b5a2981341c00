"""The matrix products of a view on a CPU, where most of their entries are zeros: only the taps are visited.

Reads the integers of the pack directly, and turns right angles while it writes.

Legend: N patches, C bands, H x W pixels in, S x S pixels out.
"""

from __future__ import annotations

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


@numba.njit(nogil=True)
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


@numba.njit(nogil=True, fastmath={"contract"})
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
