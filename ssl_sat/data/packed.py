"""Packs: fixed-size records in one flat file, memory-mapped. The format is on one page: docs/pack_format.md.

# N patches, C bands (of one resolution group), H rows, W columns, K classes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ssl_sat.data.spec import Level
from ssl_sat.spec import MissingInput, UserError

FORMAT = "ssl_sat.pack/1"
_TORCH_BITS = {"uint8": torch.uint8, "uint16": torch.int16, "float32": torch.float32}
Array = TypeVar("Array", np.ndarray, Tensor)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BandGroup(_Strict):
    """Bands of one resolution: (C, height, width) in every record; gsd_m is None where it is not known."""

    bands: list[str]
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    gsd_m: float | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(self.bands), self.height, self.width


class Manifest(_Strict):
    """manifest.json: everything needed to read patches.bin, and where it came from.

    Reflectance (or display value, where `level` is 'display') = (dn - offset) / scale. `splits` maps a name to
    [first, last) rows. `decode_sha256` is equal for two packs whose files went through the same path to a record.
    `doubts` say where the pixels do not look like these facts.
    """

    format: Literal["ssl_sat.pack/1"]
    source: str
    sensor: str
    level: Level
    bands: list[str]
    groups: list[BandGroup]
    dtype: Literal["uint8", "uint16", "float32"]
    record_bytes: int = Field(gt=0)
    n: int = Field(gt=0)
    splits: dict[str, list[int]]
    classes: list[str]
    label_kind: Literal["none", "single", "multi"]
    scale: float
    offset: float
    decode: dict[str, str | int | None]
    decode_sha256: str
    gsd_m: float | None
    synthetic: bool
    quarantined: int
    absent: int
    unlisted: int
    duplicates_across_splits: int
    split_files: dict[str, str]
    patches_sha256: str
    offset_basis: str = "not recorded"
    baselines: list[str] = []
    doubts: list[str] = []
    filtered: int = 0


class BandStats(_Strict):
    """Statistics of one band in reflectance or display units; percentiles are nearest-rank."""

    mean: float
    std: float
    min: float
    p01: float
    p50: float
    p99: float
    max: float
    count: int


class Stats(_Strict):
    """stats.json: per-band statistics over the patches of `split` ('train', or 'all' where there is no train)."""

    split: str
    patches: int
    unit: str
    percentiles: Literal["exact", "sampled"]
    bands: dict[str, BandStats]

    def __getitem__(self, name: str) -> BandStats:
        return self.bands[name]

    def mean(self, names: list[str] | tuple[str, ...]) -> list[float]:
        """Means of the named bands, in their order."""
        return [self.bands[name].mean for name in names]

    def std(self, names: list[str] | tuple[str, ...]) -> list[float]:
        """Standard deviations of the named bands, in their order."""
        return [self.bands[name].std for name in names]


class Batch(NamedTuple):
    """What a loader yields: one (N, C_g, H_g, W_g) tensor per resolution group, row numbers, labels.

    uint16 data is int16 with the same bits (`x.int() & 0xFFFF` gives the numbers). Labels: int64 (N,), -1 for none;
    float32 (N, K) for multi-label.
    """

    groups: tuple[Tensor, ...]
    rows_N: Tensor
    labels_N: Tensor


class Pack:
    """A pack opened for reading. Nothing is read before it is asked for; patches.bin is mapped, never loaded."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __reduce__(self) -> tuple[Any, ...]:
        return Pack, (self.folder, self.manifest)  # a process that is sent a pack maps the file itself

    @classmethod
    def open(cls, folder: str | Path) -> Pack:
        """Open the pack in `folder`; MissingInput when there is none, UserError when it is broken."""
        path = Path(folder)
        file = path / "manifest.json"
        if not file.is_file():
            raise MissingInput(f"no pack at '{path}' (no manifest.json). Make it: python -m ssl_sat.pack data=<name> "
                               "data.root=<folder of the data set>")  # fmt: skip
        manifest = _parse(Manifest, file)
        size = (path / "patches.bin").stat().st_size if (path / "patches.bin").is_file() else 0
        if size != manifest.n * manifest.record_bytes:
            raise UserError(
                f"{path / 'patches.bin'}: {size} bytes, but {manifest.n} records of {manifest.record_bytes} need "
                f"{manifest.n * manifest.record_bytes}. Pack again."
            )
        return cls(path, manifest)

    def __len__(self) -> int:
        return self.manifest.n

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, group after group: the order of the channels in `read` and `batch`."""
        return tuple(self.manifest.bands)

    @property
    def groups(self) -> tuple[BandGroup, ...]:
        """Resolution groups in the order of `read`."""
        return tuple(self.manifest.groups)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is a position here."""
        return tuple(self.manifest.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of their rows."""
        return tuple(sorted(self.manifest.splits, key=self.manifest.splits.__getitem__))

    @cached_property
    def stats(self) -> Stats:
        """Per-band statistics of the training split."""
        return _parse(Stats, self.folder / "stats.json")

    @cached_property
    def index(self) -> Mapping[str, list[Any]]:
        """index.parquet as columns: id, split, label, labels, path, place, time, country, digest."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "index.parquet").to_pydict()

    def column(self, name: str) -> Any:
        """One column of index.parquet as a pyarrow array, without reading the others."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "index.parquet", columns=[name])[name].combine_chunks()

    @cached_property
    def ids(self) -> list[str]:
        """Id of every row."""
        return self.column("id").to_pylist()

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (N,), -1 for none; for multi-label float32 (N, K), 1 where the class is present."""
        if self.manifest.label_kind != "multi":
            return self.column("label").to_numpy(zero_copy_only=False).astype(np.int64)
        lists = self.column("labels")
        rows = np.repeat(np.arange(len(self)), lists.value_lengths().to_numpy(zero_copy_only=False))
        labels_NK = np.zeros((len(self), len(self.classes)), np.float32)
        labels_NK[rows, lists.flatten().to_numpy(zero_copy_only=False)] = 1.0
        return labels_NK

    @cached_property
    def records(self) -> np.ndarray:
        """The mapped file, (N, numbers per record), read-only."""
        dtype = np.dtype(self.manifest.dtype).newbyteorder("<")
        shape = (self.manifest.n, self.manifest.record_bytes // dtype.itemsize)
        return np.asarray(np.memmap(self.folder / "patches.bin", dtype, "r", shape=shape))

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the groups of a Batch."""
        return _TORCH_BITS[self.manifest.dtype]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, int64, ascending."""
        if split not in self.manifest.splits:
            sizes = {name: last - first for name, (first, last) in self.manifest.splits.items()}
            there = ", ".join(f"{name} ({sizes[name]})" for name in self.splits)
            raise UserError(f"{self.folder}: no split '{split}' in this pack (there are: {there}). Pack with a split "
                            "scheme that has it: data.split=...")  # fmt: skip
        first, last = self.manifest.splits[split]
        return np.arange(first, last, dtype=np.int64)

    def read(self, rows_N: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """One (N, C_g, H_g, W_g) array per group in the stored dtype: one copy out of the map, then views of it.

        `out` (N, numbers per record) receives the records where the caller keeps a buffer.
        """
        rows = np.asarray(rows_N, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()}..{rows.max()} outside 0..{len(self) - 1}")
        # mode='clip' (safe after the check) lets numpy write straight into `out` instead of through a buffer
        return self.split_groups(np.take(self.records, rows, axis=0, out=out, mode="clip"))

    def split_groups(self, records: Array) -> tuple[Array, ...]:
        """Views (N, C_g, H_g, W_g) of records (N, numbers per record), an array or a tensor."""
        return split_groups(records, self.groups)

    def batch(self, rows_N: np.ndarray) -> Batch:
        """Return the rows as tensors that own their memory; see Batch for the dtypes."""
        rows = np.array(rows_N, np.int64)
        bits = np.int16 if self.manifest.dtype == "uint16" else self.manifest.dtype
        groups = tuple(torch.from_numpy(array.view(bits)) for array in self.read(rows))
        return Batch(groups, torch.from_numpy(rows), torch.from_numpy(self.labels[rows]))


def split_groups(records: Array, groups: tuple[BandGroup, ...]) -> tuple[Array, ...]:
    """Views (N, C_g, H_g, W_g) of records (N, numbers per record), group after group."""
    views: list[Array] = []
    at = 0
    for group in groups:
        size = group.shape[0] * group.shape[1] * group.shape[2]
        views.append(records[:, at : at + size].reshape(len(records), *group.shape))
        at += size
    return tuple(views)


def _parse(model: type[Any], file: Path) -> Any:
    try:
        return model.model_validate_json(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file} is missing: the pack is incomplete. Pack again.") from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise UserError(f"{file} is not a {FORMAT} file this version can read: {error}") from None
