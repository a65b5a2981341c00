"""The matrix products of a view on a CPU, where most of their entries are zeros: only the taps are visited.

Reads the integers of the pack directly, and turns right angles while it writes. The two inner loops are written in
vectors, since numba's own vector code spends more time in front of such short loops than in them.

Legend: N patches, V views, C bands, H x W pixels in, S x S pixels out, X pixels in along one axis, T taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

LANES = 32  # floats that are summed together: two registers of AVX-512, four of AVX2
MOST = 3  # of them at once, with their sums in registers
TILE = 8  # side of the squares that are transposed in registers


class Taps(NamedTuple):
    """The entries of a (N, S, X) matrix that are not zero: those of row s are weight[n, s] from column first[n, s] on.

    first_NS, count_N: int64; weight_NST: float32, zero from count[n] on. Every row of a sample has count[n] taps, some
    of which may be zero, and none lies outside the matrix.
    """

    first_NS: np.ndarray
    weight_NST: np.ndarray
    count_N: np.ndarray


def separable_into(
    out_VNCSS: Tensor,
    x_NCHW: Tensor,
    rows: Taps,
    columns: Taps,
    transpose_VN: Sequence[Tensor],
    take: list[int],
    place: list[int],
) -> None:
    """Write W_y X W_x^T of the bands `take` of x into the channels `place` of every view, transposed where marked.

    x: uint8, int16 (the bits of uint16) or float32. rows, columns: of V N samples, view by view. transpose_VN: a mark
    for each sample of each view, or none at all. Equal to `geometric.separable` but for the order of summation.
    """
    x = x_NCHW.contiguous().numpy()
    x = x.view(np.uint16) if x.dtype == np.int16 else x
    marked = torch.cat(list(transpose_VN)) if transpose_VN else torch.zeros(len(rows.count_N), dtype=torch.bool)
    _separable(out_VNCSS.numpy(), x, *rows, *columns, marked.numpy(), np.array(take), np.array(place))


def resample_taps(
    start_N: Tensor, length_N: Tensor, size_in: int, size_out: int, flip_N: Tensor | None, blur_NT: Tensor | None
) -> Taps:
    """Return `geometric.resample_matrix`, mirrored where marked, then blurred with reflected borders, as taps.

    Equal to the products of `geometric` but for the order of summation.
    """
    n = len(start_N)
    flip = torch.zeros(n, dtype=torch.bool) if flip_N is None else flip_N
    blur = torch.ones(n, 1) if blur_NT is None else blur_NT
    step = max(float(length_N.max()) / size_out, 1.0) if n else 1.0
    most = min(size_in, 2 * math.ceil(step) + 2 + math.ceil((blur.shape[1] - 1) * step) + 1)
    taps = Taps(np.zeros((n, size_out), np.int64), np.zeros((n, size_out, most), np.float32), np.zeros(n, np.int64))
    start, length = start_N.float().numpy(), length_N.float().numpy()
    _resample(*taps, start, length, size_in, flip.numpy(), blur.contiguous().numpy())
    return taps


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """numba's njit without the interpreter lock; its machine code is kept on disk, where a folder can be written to.

    Compiling takes seconds, and every process of a run would pay them again. The code on disk goes by the date of this
    file alone, which is why the vector code below is in it.
    """

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither beside the module nor in the user's cache
            return numba.njit(nogil=True, **options)(function)

    return decorate


def _vector_code(function: Any) -> Any:
    """numba's intrinsic, which type checkers believe to be called with its first argument, that of the compiler."""
    return intrinsic(function)


@_compiled()
def _resample(
    first: np.ndarray, weight: np.ndarray, count: np.ndarray, start: np.ndarray, length: np.ndarray, width: int,
    flip: np.ndarray, blur: np.ndarray,
) -> None:  # fmt: skip
    size, radius = first.shape[1], blur.shape[1] // 2
    plain = np.empty((size, width), np.float32)
    low_S, high_S = np.empty(size, np.int64), np.empty(size, np.int64)
    one, half, edge = np.float32(1.0), np.float32(0.5), np.float32(1e-3)
    for n in range(first.shape[0]):
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
                value = one - abs(pixel + half - centre) / reach
                if value <= 0.0 or pixel + one <= edge or pixel - length[n] >= -edge:
                    value = np.float32(0.0)
                plain[row, w] = value
                total += value
            while plain[row, low] == 0.0:
                low += 1
            while plain[row, high - 1] == 0.0:
                high -= 1
            low_S[row], high_S[row] = low, high
            for w in range(low, high):
                plain[row, w] /= total
        reached = radius if blur[n, radius] != 1.0 else 0
        for s in range(size):
            low, high = width, 0
            for t in range(-reached, reached + 1):
                source = _reflected(s + t, size)
                low, high = min(low, low_S[source]), max(high, high_S[source])
            first[n, s] = low
            count[n] = max(count[n], high - low)
            for t in range(-reached, reached + 1):
                source = _reflected(s + t, size)
                for w in range(low_S[source], high_S[source]):
                    weight[n, s, w - low] += blur[n, t + radius] * plain[source, w]
        for s in range(size):  # as many taps in every row, none beyond the last pixel
            beyond = first[n, s] + count[n] - width
            if beyond > 0:
                first[n, s] -= beyond
                for t in range(count[n] - 1, -1, -1):
                    weight[n, s, t] = weight[n, s, t - beyond] if t >= beyond else np.float32(0.0)


@numba.njit(inline="always")
def _reflected(position: int, size: int) -> int:
    position = abs(position)
    return 2 * (size - 1) - position if position >= size else position


@_compiled(fastmath={"contract"})
def _separable(
    out: np.ndarray, x: np.ndarray, first_y: np.ndarray, weight_y: np.ndarray, count_y: np.ndarray,
    first_x: np.ndarray, weight_x: np.ndarray, count_x: np.ndarray, transpose: np.ndarray, take: np.ndarray,
    place: np.ndarray,
) -> None:  # fmt: skip
    size, height, width = first_y.shape[1], x.shape[2], x.shape[3]
    padded = (size + LANES - 1) // LANES * LANES
    longest = max((width + LANES - 1) // LANES * LANES, padded)
    lines = np.zeros((TILE, longest), np.float32)
    turned = np.zeros((longest, padded), np.float32)  # rows resampled, transposed: the second pass is contiguous too
    result = np.zeros((padded, padded), np.float32)
    for sample in range(x.shape[0]):
        for k in range(len(take) * out.shape[0]):
            band, view = k // out.shape[0], k % out.shape[0]
            n, target = view * x.shape[0] + sample, out[view, sample, place[band]]
            image = (sample * x.shape[1] + take[band]) * height * width
            low, high = first_x[n].min(), first_x[n].max() + count_x[n]
            blocks, taps_y, taps_x = (high - low + LANES - 1) // LANES, count_y[n], count_x[n]
            for o in range(0, size, TILE):
                for j in range(min(TILE, size - o)):
                    begin = image + first_y[n, o + j] * width + low
                    weights = (n * size + o + j) * weight_y.shape[2]
                    if begin + (taps_y - 1) * width + blocks * LANES <= x.size:  # what it reads beyond is not used
                        _weighted(lines, j * longest, x, begin, width, weight_y, weights, taps_y, blocks)
                        continue
                    for w in range(high - low):
                        total = np.float32(0.0)
                        for t in range(taps_y):
                            pixel = np.float32(x[sample, take[band], first_y[n, o + j] + t, low + w])
                            total += weight_y[n, o + j, t] * pixel
                        lines[j, w] = total
                for w in range(0, high - low, TILE):
                    _transposed(turned, w * padded + o, padded, lines, w, longest)
            for p in range(0, size, TILE):
                for j in range(min(TILE, size - p)):
                    begin, weights = (first_x[n, p + j] - low) * padded, (n * size + p + j) * weight_x.shape[2]
                    _weighted(lines, j * longest, turned, begin, padded, weight_x, weights, taps_x, padded // LANES)
                    if transpose[n]:
                        target[p + j] = lines[j, :size]
                if not transpose[n]:
                    for o in range(0, size, TILE):
                        _transposed(result, o * padded + p, padded, lines, o, longest)
            if not transpose[n]:
                target[:] = result[:size, :size]


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _vector(kind: ir.Type, lanes: int, value: Any = ir.Undefined) -> ir.Constant:
    filled = value if value is ir.Undefined or isinstance(value, list) else [value] * lanes
    return ir.Constant(ir.VectorType(kind, lanes), filled)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    """Address of `lanes` elements of a contiguous array, counted flat."""
    data = context.make_array(kind)(context, builder, array).data
    vector = ir.VectorType(data.type.pointee, lanes)
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _float_lanes(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    """Load `lanes` elements as float32; integers are unsigned and at most 16 bits wide."""
    where = _pointer(context, builder, kind, array, index, lanes)
    x = builder.load(where, align=kind.dtype.bitwidth // 8)
    if isinstance(x.type.element, ir.FloatType):
        return x
    wide = builder.zext(x, ir.VectorType(ir.IntType(32), lanes))
    return builder.sitofp(wide, ir.VectorType(ir.FloatType(), lanes))


@_vector_code
def _weighted(
    typing: Any, target: Any, at: Any, source: Any, first: Any, step: Any, weights: Any, offset: Any, taps: Any,
    blocks: Any,
) -> Any:  # fmt: skip
    """target[at + l] = sum over t < taps of weights[offset + t] * source[first + t * step + l], l < blocks * LANES.

    Arrays are contiguous and counted flat.
    """
    int64 = numba.types.int64
    signature = numba.types.void(target, int64, source, int64, int64, weights, int64, int64, int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, at, source, first, step, weights, offset, taps, blocks = args
        to, of, by = (signature.args[k] for k in (0, 2, 5))

        def sums(start: Any, count: int) -> None:
            zero = _vector(ir.FloatType(), LANES, 0.0)
            totals = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
            for total in totals:
                builder.store(zero, total)
            with cgutils.for_range(builder, taps) as tap:
                row = builder.add(builder.add(first, start), builder.mul(tap.index, step))
                place = builder.add(offset, tap.index)
                weight = builder.load(_pointer(context, builder, by, weights, place, 1), align=4)
                every = builder.shuffle_vector(weight, weight, _vector(ir.IntType(32), LANES, 0))
                for k, total in enumerate(totals):
                    x = _float_lanes(context, builder, of, source, builder.add(row, _int(k * LANES)), LANES)
                    product = builder.fmul(x, every, flags=("contract",))
                    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
            for k, total in enumerate(totals):
                place = builder.add(builder.add(at, start), _int(k * LANES))
                builder.store(builder.load(total), _pointer(context, builder, to, target, place, LANES), align=4)

        with cgutils.for_range(builder, builder.sdiv(blocks, _int(MOST))) as group:
            sums(builder.mul(group.index, _int(MOST * LANES)), MOST)
        rest = builder.srem(blocks, _int(MOST))
        for count in range(1, MOST):
            with builder.if_then(builder.icmp_signed("==", rest, _int(count))):
                sums(builder.mul(builder.sub(blocks, rest), _int(LANES)), count)
        return context.get_dummy_value()

    return signature, codegen


@_vector_code
def _transposed(typing: Any, target: Any, at: Any, target_step: Any, source: Any, first: Any, source_step: Any) -> Any:
    """target[at + k * target_step + j] = source[first + j * source_step + k] for j, k < TILE, counted flat."""
    int64 = numba.types.int64
    signature = numba.types.void(target, int64, int64, source, int64, int64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, at, target_step, source, first, source_step = args
        to, of = signature.args[0], signature.args[3]
        rows = [
            _float_lanes(context, builder, of, source, builder.add(first, builder.mul(_int(j), source_step)), TILE)
            for j in range(TILE)
        ]
        half = TILE // 2
        while half:  # of ever smaller squares, the quarters off the diagonal change places
            left = [lane if not lane & half else TILE + lane - half for lane in range(TILE)]
            right = [lane + half if not lane & half else TILE + lane for lane in range(TILE)]
            for j in (row for row in range(TILE) if not row & half):
                rows[j], rows[j + half] = (
                    builder.shuffle_vector(rows[j], rows[j + half], _vector(ir.IntType(32), TILE, places))
                    for places in (left, right)
                )
            half //= 2
        for k, row in enumerate(rows):
            place = builder.add(at, builder.mul(_int(k), target_step))
            builder.store(row, _pointer(context, builder, to, target, place, TILE), align=4)
        return context.get_dummy_value()

    return signature, codegen
