"""The strip reader against rasterio, bit for bit; the writer against rasterio."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes.bigearthnet import write_band

from ssl_sat.data.sources.contract import UnreadablePatch
from ssl_sat.data.sources.tiff import _layout, read_blocks, read_tiff, write_strips


def pixels(count: int, height: int, width: int, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(count * height + width)
    return (rng.random((count, height, width)) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("count, interleave", [(1, "band"), (3, "band"), (3, "pixel"), (13, "pixel")])
@pytest.mark.parametrize("height, width", [(120, 120), (20, 20), (37, 51)])
def test_uncompressed_strips_need_no_gdal(
    tmp_path: Path, dtype: str, count: int, interleave: str, height: int, width: int
) -> None:
    want = pixels(count, height, width, dtype)
    path = tmp_path / "a.tif"
    write_band(path, want, interleave=interleave, blockysize=7)
    got = read_blocks(path.read_bytes(), str(path))
    assert got is not None
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


BLOCKS = (
    {"blockysize": 7},
    {"blockysize": 60},
    {"tiled": True, "blockxsize": 16, "blockysize": 32},
    {"tiled": True, "blockxsize": 64, "blockysize": 64},
)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("count, interleave", [(1, "band"), (3, "band"), (3, "pixel")])
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("packing", [{}, {"compress": "deflate"}, {"compress": "deflate", "predictor": 2}])
def test_deflate_predictor_and_tiles_need_no_gdal(
    tmp_path: Path, dtype: str, count: int, interleave: str, blocks: dict[str, object], packing: dict[str, object]
) -> None:
    rng = np.random.default_rng(5)
    want = rng.integers(0, 256, (count, 60, 51 * np.dtype(dtype).itemsize), np.uint8).view(dtype)  # every bit pattern
    path = tmp_path / "a.tif"
    write_band(path, want, interleave=interleave, **blocks, **packing)
    got = read_blocks(path.read_bytes(), str(path))
    assert got is not None and got.dtype == want.dtype
    assert got.tobytes() == want.tobytes()
    with rasterio.open(path) as raster:
        assert got.tobytes() == raster.read().tobytes()


def test_the_older_number_of_deflate(tmp_path: Path) -> None:
    want, path = pixels(1, 30, 30, "uint16"), tmp_path / "a.tif"
    write_band(path, want, compress="deflate")
    entry = (259).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    data = path.read_bytes()
    at = data.index(entry + (8).to_bytes(2, "little")) + 8
    path.write_bytes(data[:at] + (32946).to_bytes(2, "little") + data[at + 2 :])
    np.testing.assert_array_equal(read_blocks(path.read_bytes(), str(path)), want)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(), want)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "zstd", "tiled": True, "blockxsize": 64, "blockysize": 64},
        {"compress": "deflate", "BIGTIFF": "YES"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"ENDIANNESS": "BIG", "compress": "deflate", "predictor": 2},
        {"compress": "lzw", "predictor": 2},
        {"compress": "packbits"},
        {"SPARSE_OK": "TRUE", "NBITS": 12},
    ],
)
def test_other_tiffs_go_through_rasterio(tmp_path: Path, options: dict[str, object]) -> None:
    want = pixels(3, 60, 60, "uint16")
    path = tmp_path / "a.tif"
    write_band(path, want, **options)
    assert read_blocks(path.read_bytes(), str(path)) is None
    np.testing.assert_array_equal(read_tiff(str(path)), want)


def test_predictor_3_and_blocks_that_were_never_written_go_through_rasterio(tmp_path: Path) -> None:
    path, want = tmp_path / "a.tif", pixels(2, 40, 40, "float32")
    write_band(path, want, compress="deflate", predictor=3)
    assert read_blocks(path.read_bytes(), str(path)) is None
    np.testing.assert_array_equal(read_tiff(str(path)), want)
    write_band(path, np.zeros((1, 64, 64), np.uint16), sparse_ok="TRUE", blockysize=8)
    np.testing.assert_array_equal(read_tiff(str(path)), np.zeros((1, 64, 64), np.uint16))


def test_a_last_strip_may_be_padded(tmp_path: Path) -> None:
    want, path = pixels(1, 30, 40, "uint16"), tmp_path / "a.tif"
    write_band(path, want, compress="deflate", blockysize=20)
    data = path.read_bytes()
    layout = _layout(data)
    assert layout is not None and [block.height for block in layout.blocks] == [20, 10]
    first, last = layout.blocks
    padded = zlib.compress(want[0, 20:].tobytes() + b"\7" * 800)
    data = data.replace(struct.pack("<II", first.start, last.start), struct.pack("<II", first.start, len(data)))
    sizes = [block.stop - block.start for block in layout.blocks]
    data = data.replace(struct.pack("<HH", *sizes), struct.pack("<HH", sizes[0], len(padded)))
    path.write_bytes(data + padded)
    np.testing.assert_array_equal(read_blocks(path.read_bytes(), str(path)), want)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(), want)


def test_a_layout_that_is_known_holds_only_for_files_of_that_layout(tmp_path: Path) -> None:
    for blockysize in (7, 20, 8, 7):
        for seed in range(3):
            path, want = tmp_path / f"{blockysize}_{seed}.tif", pixels(2, 37, 51, "uint16") + seed
            write_band(path, want, blockysize=blockysize, gsd_m=10.0 + seed)
            np.testing.assert_array_equal(read_blocks(path.read_bytes(), str(path)), want)


def deflated(path: Path) -> tuple[bytes, int, int]:
    """A file of one deflated strip: its bytes, where the strip starts, its size."""
    write_band(path, pixels(1, 40, 40, "uint16"), compress="deflate", blockysize=40)
    data = path.read_bytes()
    (start,), (size,) = _values(data, 273), _values(data, 279)
    return data, start, size


def _values(data: bytes, tag: int) -> list[int]:
    """One LONG or SHORT of the first directory."""
    at = data.index(tag.to_bytes(2, "little"), 10)
    kind = int.from_bytes(data[at + 2 : at + 4], "little")
    return [int.from_bytes(data[at + 8 : at + 8 + {3: 2, 4: 4}[kind]], "little")]


def test_damaged_deflate_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data, start, size = deflated(path)
    want = read_tiff(str(path))
    rng, refused = np.random.default_rng(1), 0
    for at in rng.integers(start, start + size, 60):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_tiff(str(path)), want)  # never other pixels
        except UnreadablePatch:
            refused += 1
    assert refused == 60  # the checksum tells


def test_lying_sizes_and_bombs_are_unreadable_and_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data, start, _ = deflated(path)
    bomb = zlib.compress(bytes(200 << 20), 9)  # 200 MB of zeros where 3,200 bytes belong
    grown = data[:start] + bomb
    at = grown.index((279).to_bytes(2, "little"), 10) + 8
    path.write_bytes(grown[:at] + len(bomb).to_bytes(4, "little") + grown[at + 4 :])
    tracemalloc.start()
    try:
        with pytest.raises(UnreadablePatch, match="a block of 3201 bytes, not 3200"):
            read_tiff(str(path))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    for tag, value, why in (
        (256, 60_000, "are no patch|1 strips"),
        (257, 41, "1 strips or tiles where there should be 2"),
    ):
        at = data.index(tag.to_bytes(2, "little"), 8) + 8
        lying = data[:at] + value.to_bytes(2, "little") + data[at + 2 :]
        if tag == 256:
            at = lying.index((257).to_bytes(2, "little"), 8) + 8
            lying = lying[:at] + value.to_bytes(2, "little") + lying[at + 2 :]
        path.write_bytes(lying)
        with pytest.raises(UnreadablePatch, match=why):
            read_tiff(str(path))


@pytest.mark.parametrize("keep", [0, 3, 8, 60, 300, 5000, -200])
@pytest.mark.parametrize("options", [{}, {"compress": "deflate"}])
def test_a_cut_file_is_unreadable_wherever_it_is_cut(tmp_path: Path, keep: int, options: dict[str, object]) -> None:
    path = tmp_path / "a.tif"
    write_band(path, pixels(1, 120, 120, "uint16"), **options)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnreadablePatch):
        read_tiff(str(path))


def test_damaged_headers_never_raise_anything_else(tmp_path: Path) -> None:
    path, want = tmp_path / "a.tif", pixels(2, 20, 20, "uint16")
    write_band(path, want)
    whole, rng, outcomes = path.read_bytes(), np.random.default_rng(0), {"read": 0, "refused": 0}
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, 220, rng.integers(1, 5)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert isinstance(read_tiff(str(path)), np.ndarray)
            outcomes["read"] += 1
        except UnreadablePatch:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 30


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePatch, match="No such file"):
        read_tiff(str(tmp_path / "none.tif"))
    (tmp_path / "text.tif").write_text("not an image at all")
    with pytest.raises(UnreadablePatch):
        read_tiff(str(tmp_path / "text.tif"))


@pytest.mark.parametrize("px, gsd_m", [(120, 10.0), (60, 20.0), (20, 60.0)])
def test_rasterio_reads_what_is_written(tmp_path: Path, px: int, gsd_m: float) -> None:
    want = pixels(1, px, px, "uint16")
    path = tmp_path / "a.tif"
    write_strips(path, want[0], 32632, 600_000.0, 5_000_040.0, gsd_m)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(), want)
        assert raster.crs.to_epsg() == 32632
        assert raster.transform.to_gdal() == (600_000.0, gsd_m, 0.0, 5_000_040.0, 0.0, -gsd_m)
        assert raster.compression is None and raster.tags()["AREA_OR_POINT"] == "Area"
    np.testing.assert_array_equal(read_blocks(path.read_bytes(), str(path)), want)
