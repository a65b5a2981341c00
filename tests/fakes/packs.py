"""Packs written directly: records of which every byte follows from the row, for tests of reading alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssl_sat.data.packed import Pack

GROUPS = ((("B02", "B03"), 6, 10.0), (("B05",), 3, 20.0))  # bands, size in pixels, metres


def record(row: int, numbers: int, dtype: str) -> np.ndarray:
    values = np.random.default_rng(row).integers(0, 2**16, numbers, dtype=np.uint16)
    return values.astype(dtype)


def write(folder: Path, n: int, dtype: str = "uint16", label_kind: str = "single", groups=GROUPS, zeros=False) -> Pack:
    """`zeros`: leave the records a hole in the file, for sizes that matter and contents that do not."""
    folder.mkdir(parents=True)
    numbers = sum(len(bands) * size * size for bands, size, _ in groups)
    record_bytes = numbers * np.dtype(dtype).itemsize
    with (folder / "patches.bin").open("wb") as file:
        if zeros:
            file.truncate(n * record_bytes)
        else:
            file.writelines(record(row, numbers, dtype).tobytes() for row in range(n))
    manifest = {
        "format": "ssl_sat.pack/1", "source": "fake", "sensor": "Sentinel-2", "level": "L2A",
        "bands": [band for bands, _, _ in groups for band in bands],
        "groups": [{"bands": bands, "height": size, "width": size, "gsd_m": gsd} for bands, size, gsd in groups],
        "dtype": dtype, "record_bytes": record_bytes, "n": n, "splits": {"train": [0, n]}, "classes": ["a", "b", "c"],
        "label_kind": label_kind, "scale": 10000.0, "offset": 0.0, "decode": {}, "decode_sha256": "", "gsd_m": 10.0,
        "synthetic": True, "quarantined": 0, "absent": 0, "unlisted": 0, "duplicates_across_splits": 0,
        "split_files": {}, "patches_sha256": "",
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    labels = {"label": [row % 3 for row in range(n)], "labels": [[row % 3] for row in range(n)]}
    pq.write_table(pa.table({"id": [f"p{row}" for row in range(n)], **labels}), folder / "index.parquet")
    return Pack.open(folder)
