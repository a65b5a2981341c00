"""The strip reader against rasterio, bit for bit; the writer against rasterio."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes.bigearthnet import write_band

from ssl_sat.data.sources.contract import UnreadablePatch
from ssl_sat.data.sources.tiff import read_strips, read_tiff, write_strips


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
    got = read_strips(path.read_bytes(), str(path))
    assert got is not None
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate"},
        {"compress": "zstd", "tiled": True, "blockxsize": 64, "blockysize": 64},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"compress": "lzw", "predictor": 2},
    ],
)
def test_other_tiffs_go_through_rasterio(tmp_path: Path, options: dict[str, object]) -> None:
    want = pixels(3, 60, 60, "uint16")
    path = tmp_path / "a.tif"
    write_band(path, want, **options)
    assert read_strips(path.read_bytes(), str(path)) is None
    np.testing.assert_array_equal(read_tiff(str(path)), want)


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
    np.testing.assert_array_equal(read_strips(path.read_bytes(), str(path)), want)
