"""Every real TIFF there is: read here and by rasterio, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import rasterio

from ssl_sat.data.sources.tiff import read_blocks, read_tiff

# of the files, how many need GDAL: benv2's are zstd
ARCHIVES = {
    "BigEarthNet-v1.0_sample.zip": 0,
    "BigEarthNet-v2.0_sample.zip": 0,
    "EuroSAT_MS_sample.zip": 0,
    "UCMerced_LandUse_sample.zip": 0,
    "GEO-Bench-2_benv2_sample.zip": 9,
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("archive", ARCHIVES)
def test_real_tiffs_equal_rasterio(archive: str, unzipped: Callable[[str], Path]) -> None:
    paths = [path for path in unzipped(archive).rglob("*") if path.suffix in (".tif", ".tiff")]
    assert paths
    by_gdal = 0
    for path in paths:
        got = read_tiff(str(path))
        by_gdal += read_blocks(path.read_bytes(), str(path)) is None
        with rasterio.open(path) as raster:
            want = raster.read()
        assert got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes(), path
    assert by_gdal == ARCHIVES[archive]
