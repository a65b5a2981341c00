"""TIFF pixels: a reader of plain and deflated strips and tiles over the tags, rasterio for the rest; a small writer.

BigEarthNet's files are uncompressed strips of uint16. Reading them through GDAL costs far more than the bytes do
(opening, geokeys, block cache), so the common cases are read directly; the result is bit-identical (tested). Files of
one size written by one program differ in pixels and place only: their layout is parsed once and found again by the
bytes of its directory. Where a file is not exactly as its tags say, GDAL decides, or the patch is unreadable.
Tags, field types, tiles, predictor: TIFF 6.0 specification, sections 2, 8, 14, 15; deflate: Adobe's TIFF technical
note of 2002 (8; 32946 is the older number of the same); geokeys: GeoTIFF 1.1 (OGC 19-008r4).
"""

from __future__ import annotations

import itertools
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_sat.data.sources.contract import UnreadablePatch

MAX_BYTES = 1 << 30  # of the decoded pixels of one file: what claims more is no patch
_READ = 1 << 16  # most files of one band are read at once
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _PREDICTOR = 273, 274, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT = 322, 323, 324, 325, 339
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG: all that the tags above use
_USED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER, _OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _PLANAR,
         _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT}  # fmt: skip
_DTYPES = {(8, 1): "u1", (16, 1): "<u2", (32, 3): "<f4", (16, 2): "<i2"}
_PLAIN, _DEFLATE = (1,), (8, 32946)

Tags = dict[int, tuple[int, ...]]
Outlying = tuple[tuple[int, int, bytes], ...]  # start, stop, content of the values that lie outside the directory


class Block(NamedTuple):
    """A strip or tile: where it lies in the file and, by its upper left corner, in the image."""

    start: int
    stop: int
    plane: int
    row: int
    column: int
    height: int
    width: int


class Layout(NamedTuple):
    """How the pixels of a file lie. `shape` is (C, H, W); `planes` is 1 where the bands of a pixel lie together.

    Blocks end at `end`; plain strips that follow each other are one stretch of bytes, which starts at `run`.
    """

    dtype: np.dtype
    shape: tuple[int, int, int]
    planes: int
    deflated: bool
    differences: bool
    blocks: tuple[Block, ...]
    end: int
    run: int | None


_known: dict[bytes, tuple[Layout | None, Outlying]] = {}  # by the bytes of the directory


def read_tiff(path: str) -> np.ndarray:
    """Return the bands of a TIFF as (C, H, W) in the file's dtype; UnreadablePatch when it is missing or broken."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UnreadablePatch(f"{_name(path)}: {error.strerror or error}") from None
    pixels = read_blocks(data, path)
    return read_with_rasterio(path) if pixels is None else pixels


def read_bytes(path: str) -> bytes:
    """The content of a file, without the buffer and the questions of `open`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, _READ)
        more = os.read(descriptor, _READ)
        if not more:
            return data
        pieces = [data, more]
        while more := os.read(descriptor, 1 << 20):
            pieces.append(more)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def read_blocks(data: bytes, path: str) -> np.ndarray | None:
    """Decode a little-endian TIFF of plain or deflated strips or tiles, (C, H, W); None when it is any other kind.

    Raises UnreadablePatch when blocks are missing, reach past the end of the file, do not inflate, or hold more or
    fewer bytes than they should: GDAL would fill some of these with zeros.
    """
    try:
        layout = _layout(data)
    except struct.error:
        return None  # no TIFF, or a header cut off: GDAL gives the reason
    except UnreadablePatch as reason:
        raise UnreadablePatch(f"{_name(path)}: {reason}") from None
    if layout is None:
        return None
    count, height, width = layout.shape
    size = count * height * width * layout.dtype.itemsize
    if size > MAX_BYTES:
        raise UnreadablePatch(f"{_name(path)}: {width}x{height} px in {count} bands are no patch")
    if layout.end > len(data):
        raise UnreadablePatch(f"{_name(path)}: truncated ({len(data)} bytes)")
    if layout.run is None:
        return _paste(data, path, layout)
    flat = np.frombuffer(data, layout.dtype, size // layout.dtype.itemsize, layout.run)
    if layout.planes == count:
        return flat.reshape(layout.shape)
    return np.ascontiguousarray(flat.reshape(height, width, count).transpose(2, 0, 1))


def _layout(data: bytes) -> Layout | None:
    """The layout that the tags describe, parsed or remembered; struct.error when they are cut off."""
    if data[:4] != b"II*\0":
        return None
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    directory = data[at : at + 2 + 12 * count]
    known = _known.get(directory)
    if known is not None:
        for start, stop, content in known[1]:
            if data[start:stop] != content:
                break
        else:
            return known[0]
    tags, outlying = _tags(data, at, count)
    layout = _parse(tags)
    if len(_known) >= 256:  # compressed files differ in the sizes of their blocks: nothing to remember
        _known.clear()
    _known[directory] = layout, outlying
    return layout


def _tags(data: bytes, at: int, count: int) -> tuple[Tags, Outlying]:
    tags: Tags = {}
    outlying = []
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, n = struct.unpack_from("<HHI", data, entry)
        if tag not in _USED:
            continue
        if kind not in _TYPES or tag in tags:
            raise struct.error
        size = struct.calcsize(_TYPES[kind]) * n
        start = entry + 8 if size <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
        if start + size > len(data):
            raise struct.error
        tags[tag] = struct.unpack_from(f"<{n}{_TYPES[kind]}", data, start)
        if size > 4:
            outlying.append((start, start + size, data[start : start + size]))
    return tags, tuple(outlying)


def _parse(tags: Tags) -> Layout | None:
    """None where GDAL is needed: another compression, sample type or orientation, sparse or oddly sized blocks."""

    def one(tag: int, default: int) -> int:
        return (tags.get(tag) or (default,))[0]

    count, height, width = one(_SAMPLES, 1), one(_HEIGHT, 0), one(_WIDTH, 0)
    bits, formats = tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
    dtype = _DTYPES.get((bits[0], formats[0])) if len({*bits}) == len({*formats}) == 1 else None
    compression, predictor = one(_COMPRESSION, 1), one(_PREDICTOR, 1)
    if dtype is None or 0 in (count, height, width) or one(_FILL_ORDER, 1) != 1 or one(_ORIENTATION, 1) != 1:
        return None
    if compression not in _PLAIN + _DEFLATE or predictor not in (1, 2) or one(_PLANAR, 1) not in (1, 2):
        return None
    planes = count if one(_PLANAR, 1) == 2 or count == 1 else 1
    blocks = _blocks(tags, (planes, height, width), one)
    if blocks is None:
        return None
    deflated, end = compression in _DEFLATE, max(block.stop for block in blocks)
    shape = (count, height, width)
    layout = Layout(np.dtype(dtype), shape, planes, deflated, deflated and predictor == 2, blocks, end, None)
    if layout.deflated:
        return layout
    each = count // planes * layout.dtype.itemsize
    if any(block.stop - block.start != block.height * block.width * each for block in blocks):
        return None
    follow = all(above.stop == below.start for above, below in itertools.pairwise(blocks))
    in_rows = _TILE_WIDTH not in tags or (len(blocks) == planes and blocks[0][5:] == (height, width))
    return layout._replace(run=blocks[0].start if follow and in_rows else None)


def _blocks(tags: Tags, shape: tuple[int, int, int], one: Callable[[int, int], int]) -> tuple[Block, ...] | None:
    planes, height, width = shape
    tiled = _TILE_WIDTH in tags
    starts = tags.get(_TILE_OFFSETS if tiled else _OFFSETS, ())
    sizes = tags.get(_TILE_COUNTS if tiled else _COUNTS, ())
    high, wide = (one(_TILE_HEIGHT, 0), one(_TILE_WIDTH, 0)) if tiled else (min(one(_ROWS, height), height), width)
    if not high or not wide or 0 in starts or 0 in sizes or (tiled and _OFFSETS in tags):
        return None
    down, across = -(-height // high), -(-width // wide)
    if min(len(starts), len(sizes)) < planes * down * across:
        raise UnreadablePatch(
            f"{min(len(starts), len(sizes))} strips or tiles where there should be {planes * down * across}"
        )
    if len(starts) != len(sizes) or len(starts) > planes * down * across:
        return None
    blocks, numbers = [], zip(starts, sizes, strict=True)
    for number, (start, size) in enumerate(numbers):
        plane, at = divmod(number, down * across)
        row, column = at // across * high, at % across * wide
        blocks.append(Block(start, start + size, plane, row, column, high if tiled else min(high, height - row), wide))
    return tuple(blocks)


def _paste(data: bytes, path: str, layout: Layout) -> np.ndarray:
    """Decode the blocks one by one into (C, H, W)."""
    count, height, width = layout.shape
    together = count // layout.planes
    out_CHW = np.empty(layout.shape, layout.dtype)
    view = memoryview(data)
    row_bytes = layout.blocks[0].width * together * layout.dtype.itemsize
    for block in layout.blocks:
        body: bytes | memoryview = view[block.start : block.stop]
        if layout.deflated:
            body = _inflated(body, block.height * row_bytes, layout.blocks[0].height * row_bytes, path)
        pixels_HWC = np.frombuffer(body, layout.dtype).reshape(block.height, block.width, together)
        if layout.differences:
            pixels_HWC = _summed(pixels_HWC)
        inside_HWC = pixels_HWC[: height - block.row, : width - block.column]
        rows = slice(block.row, block.row + inside_HWC.shape[0])
        columns = slice(block.column, block.column + inside_HWC.shape[1])
        out_CHW[block.plane : block.plane + together, rows, columns] = inside_HWC.transpose(2, 0, 1)
    return out_CHW


def _inflated(body: bytes | memoryview, size: int, most: int, path: str) -> bytes:
    """Inflate to `size` bytes; a last strip may be padded to `most`, the size of the others, and no block be larger.

    The stream must end and its checksum must hold (libtiff does not look).
    """
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise UnreadablePatch(f"{_name(path)}: {str(error).splitlines()[0]}") from None
    if not size <= len(out) <= most or not stream.eof:
        raise UnreadablePatch(f"{_name(path)}: truncated or damaged (a block of {len(out)} bytes, not {size})")
    return out[:size]


def _summed(differences_HWC: np.ndarray) -> np.ndarray:
    """Undo horizontal differencing (TIFF 6.0, section 14): sums along a row, modulo the size of a sample."""
    bits = differences_HWC.view(f"<u{differences_HWC.dtype.itemsize}")
    return np.cumsum(bits, axis=1, dtype=bits.dtype).view(differences_HWC.dtype)


def read_with_rasterio(path: str) -> np.ndarray:
    """Decode any raster that GDAL knows, (C, H, W)."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pixels are all that is wanted here
            with rasterio.open(path) as raster:
                size = raster.count * raster.height * raster.width * max(map(_itemsize, raster.dtypes), default=1)
                if size > MAX_BYTES:
                    raise ValueError(f"{raster.width}x{raster.height} px in {raster.count} bands are no patch")
                return raster.read()
    except (RasterioError, ValueError, OSError, MemoryError) as error:
        raise UnreadablePatch(
            f"{_name(path)}: {str(error).splitlines()[0] if str(error) else 'cannot be read'}"
        ) from None


def write_strips(path: str | Path, pixels_HW: np.ndarray, epsg: int, ulx: float, uly: float, gsd_m: float) -> None:
    """Write one uint16 band (H, W) as BigEarthNet does: one uncompressed strip, georeferenced in a UTM zone.

    `ulx`, `uly` are the outer corner of the upper left pixel in metres; pixels are `gsd_m` wide.
    """
    height, width = pixels_HW.shape
    body = np.ascontiguousarray(pixels_HW, "<u2").tobytes()
    geokeys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)  # projected, pixel is area, EPSG code
    at = 8 + 2 + 13 * 12 + 4  # header, count, entries, next directory
    scale_at, tie_at, keys_at = at, at + 24, at + 24 + 48
    body_at = keys_at + 2 * len(geokeys)
    entries = (
        (_WIDTH, 3, 1, width), (_HEIGHT, 3, 1, height), (_BITS, 3, 1, 16), (_COMPRESSION, 3, 1, 1),
        (_PHOTOMETRIC, 3, 1, 1), (_OFFSETS, 4, 1, body_at), (_SAMPLES, 3, 1, 1), (278, 3, 1, height),
        (_COUNTS, 4, 1, len(body)), (_FORMAT, 3, 1, 1),
        (33550, 12, 3, scale_at), (33922, 12, 6, tie_at), (34735, 3, len(geokeys), keys_at),
    )  # fmt: skip
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    geo = struct.pack("<I3d6d16H", 0, gsd_m, gsd_m, 0.0, 0.0, 0.0, 0.0, ulx, uly, 0.0, *geokeys)
    with open(path, "wb") as file:
        file.write(head + geo + body)


def _itemsize(dtype: str) -> int:
    return 16 if dtype.startswith("complex") else np.dtype(dtype).itemsize


def _name(path: str) -> str:
    return path.rpartition("/")[2]
