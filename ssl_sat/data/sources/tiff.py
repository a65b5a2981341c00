"""TIFF pixels: a reader of uncompressed strips over the tags, rasterio for everything else, and a small writer.

BigEarthNet's files are uncompressed strips of uint16. Reading them through GDAL costs far more than the bytes do
(opening, geokeys, block cache), so the common case is read directly; the result is bit-identical (tested).
Tags and field types: TIFF 6.0 specification, sections 2 and 8; geokeys: GeoTIFF 1.1 (OGC 19-008r4).
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np

from ssl_sat.data.sources.contract import UnreadablePatch

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _ORIENTATION, _SAMPLES, _COUNTS, _PLANAR, _TILE_WIDTH, _FORMAT = 273, 274, 277, 279, 284, 322, 339
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG: all that the tags below use
_DTYPES = {(8, 1): "u1", (16, 1): "<u2", (32, 3): "<f4", (16, 2): "<i2"}


def read_tiff(path: str) -> np.ndarray:
    """Return the bands of a TIFF as (C, H, W) in the file's dtype; UnreadablePatch when it is missing or broken."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UnreadablePatch(f"{_name(path)}: {error.strerror or error}") from None
    pixels = read_strips(data, path)
    return read_with_rasterio(path) if pixels is None else pixels


def read_strips(data: bytes, path: str) -> np.ndarray | None:
    """Decode a little-endian TIFF of uncompressed strips, (C, H, W); None when it is any other kind of TIFF.

    Raises UnreadablePatch when the strips reach past the end of the file.
    """
    try:
        tags = _tags(data)
    except struct.error:
        return None  # no TIFF, or a header cut off: GDAL gives the reason
    if tags is None or _TILE_WIDTH in tags or _OFFSETS not in tags or _COUNTS not in tags:
        return None
    samples = _one(tags, _SAMPLES, 1)
    dtype = _DTYPES.get((_one(tags, _BITS, 1), _one(tags, _FORMAT, 1)))
    plain = _one(tags, _COMPRESSION, 1) == 1 and _one(tags, _ORIENTATION, 1) == 1
    if dtype is None or not plain or len(set(tags[_BITS])) != 1 or 0 in tags[_OFFSETS]:
        return None
    height, width = _one(tags, _HEIGHT, 0), _one(tags, _WIDTH, 0)
    body = _join(data, tags[_OFFSETS], tags[_COUNTS])
    if body is None or len(body) < samples * height * width * np.dtype(dtype).itemsize:
        raise UnreadablePatch(f"{_name(path)}: truncated ({len(data)} bytes)")
    flat = np.frombuffer(body, dtype, samples * height * width)
    if _one(tags, _PLANAR, 1) == 2 or samples == 1:
        return flat.reshape(samples, height, width)
    return np.ascontiguousarray(flat.reshape(height, width, samples).transpose(2, 0, 1))


def read_with_rasterio(path: str) -> np.ndarray:
    """Decode any raster that GDAL knows, (C, H, W)."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pixels are all that is wanted here
            with rasterio.open(path) as raster:
                return raster.read()
    except (RasterioError, ValueError, OSError) as error:
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


def _tags(data: bytes) -> dict[int, tuple[int, ...]] | None:
    if data[:4] != b"II*\0":
        return None
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, n = struct.unpack_from("<HHI", data, entry)
        if kind not in _TYPES:
            continue
        size = struct.calcsize(_TYPES[kind]) * n
        start = entry + 8 if size <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
        tags[tag] = struct.unpack_from(f"<{n}{_TYPES[kind]}", data, start) if start + size <= len(data) else ()
    return tags


def _join(data: bytes, offsets: tuple[int, ...], counts: tuple[int, ...]) -> bytes | memoryview | None:
    if (
        not offsets
        or len(offsets) != len(counts)
        or any(at + n > len(data) for at, n in zip(offsets, counts, strict=True))
    ):
        return None
    view = memoryview(data)
    if all(offsets[i] + counts[i] == offsets[i + 1] for i in range(len(offsets) - 1)):
        return view[offsets[0] : offsets[-1] + counts[-1]]
    return b"".join(view[at : at + n] for at, n in zip(offsets, counts, strict=True))


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    values = tags.get(tag, ())
    return values[0] if values else default


def _name(path: str) -> str:
    return path.rpartition("/")[2]
