"""BigEarthNet v2.0 / reBEN (Clasen et al. 2024): the Sentinel-2 part, 549,488 patches, 12 bands, L2A.

`<root>/BigEarthNet-S2/<tile>/<patch>/<patch>_B02.tif[f]`. metadata.parquet holds labels (19 classes), split and country
of the 480,038 patches of the official splits; metadata_for_patches_with_snow_cloud_or_shadow.parquet those of the
other 69,450. The patches were made of the same L1C products as v1 (baselines 02.05 and 02.06) with Sen2Cor 2.11.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Set
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import override

from ssl_sat.data.sources.bigearthnet import BigEarthNet, baseline_in, date_in, tile_in, with_json
from ssl_sat.data.sources.contract import LabelKind, PatchRef, by_fractions_or_none, descend
from ssl_sat.data.spec import BigEarthNetV2Spec
from ssl_sat.data.splits import Assigned, assign_lists, canonical, digest_file
from ssl_sat.spec import MissingInput, UserError

TABLE = "metadata.parquet"
SECOND_TABLE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
TABLES_URL = "https://zenodo.org/records/10891137/files"
_FLAGS = {"snow": "contains_seasonal_snow", "cloud": "contains_cloud_or_shadow"}


def build_v2(spec: BigEarthNetV2Spec) -> BigEarthNetV2:
    """The source of BigEarthNet v2."""
    return BigEarthNetV2(spec)


class Row(NamedTuple):
    """What a table says of one patch; `flags` are the reasons among snow and cloud to leave it out."""

    labels: tuple[str, ...]
    split: str
    country: str | None
    v1_name: str | None
    flags: tuple[str, ...]


class BigEarthNetV2(BigEarthNet):
    """Patches below tiles; labels, splits and countries from the tables.

    `official` reads metadata.parquet alone. The other schemes keep every patch on disk and take what they can from
    both tables: a patch that none of them names has no label and no country.
    """

    needs = "the folder of BigEarthNet v2.0 that holds BigEarthNet-S2/<tile>/<patch>/ (63 GB packed, Zenodo 10891137)"
    obtain = (
        f"curl -L {TABLES_URL}/BigEarthNet-S2.tar.zst | tar x --zstd && "
        f"curl -LO {TABLES_URL}/{TABLE} && curl -LO {TABLES_URL}/{SECOND_TABLE}"
    )
    spec: BigEarthNetV2Spec

    @property
    @override
    def label_kind(self) -> LabelKind:
        return "multi" if self.tables else "none"

    @cached_property
    @override
    def base(self) -> Path:
        return descend(self.root, "BigEarthNet-S2")

    @cached_property
    def tables(self) -> list[Path]:
        """The tables to read; MissingInput when one is needed that is not there."""
        spec, official = self.spec, self.spec.split == "official"
        first = self.metadata(TABLE)
        if first is None and (official or spec.countries or spec.labels == 43):
            instead = "choose data.split=fractions" if official else "leave out data.countries and data.labels=43"
            raise self.missing([TABLE], [f"{TABLES_URL}/{TABLE}"], instead)
        second = None if official else self.metadata(SECOND_TABLE)
        if second is None and not official and set(spec.drop) & set(_FLAGS):
            raise self.missing(
                [SECOND_TABLE], [f"{TABLES_URL}/{SECOND_TABLE}"], "leave snow and cloud out of data.drop"
            )
        return [path for path in (first, second) if path is not None]

    @override
    def inventory(self) -> list[tuple[str, int]]:
        return [(os.path.basename(path), 0) for path in self._patch_folders()]

    def _patch_folders(self) -> list[str]:
        found = []
        for tile in os.scandir(self.base):
            if tile.is_dir() and date_in(tile.name):
                found += [f"{tile.name}/{patch.name}" for patch in os.scandir(tile.path) if patch.is_dir()]
        return found

    @override
    def find(self) -> list[PatchRef]:
        return [self._ref(folder) for folder in self._patch_folders()]

    def _ref(self, folder: str) -> PatchRef:
        tile, _, name = folder.partition("/")
        ref = PatchRef(name, self.prefix + folder, place=tile_in(tile), time=date_in(name), baseline=baseline_in(name))
        row = self._rows.get(name)
        if row is None:
            return ref
        ref = dataclasses.replace(ref, country=row.country)
        if self.spec.labels == 19 or not self._wanted(row):
            return dataclasses.replace(ref, labels=row.labels)
        return self._with_43(ref, row)

    def _with_43(self, ref: PatchRef, row: Row) -> PatchRef:
        """`ref` with the labels of the v1 patch of the same place and time; place and baseline stay v2's."""
        json = f"{self._v1_base}/{row.v1_name}/{row.v1_name}_labels_metadata.json"
        there = with_json(ref, json, lambda names: tuple(sorted(names)))
        return dataclasses.replace(ref, labels=there.labels, problem=there.problem)

    @cached_property
    def _v1_base(self) -> Path:
        root = self.spec.v1_root
        if root is None or not Path(root).expanduser().is_dir():
            what = "data.v1_root is not set" if root is None else f"no folder '{root}' (data.v1_root)"
            raise MissingInput(
                "bigearthnet_v2: data.labels=43 takes the labels from the JSON files of BigEarthNet v1, but "
                f"{what}. It must be the unpacked BigEarthNet-v1.0 (the JSON files are enough), or choose "
                "data.labels=19.\n  get it:  curl -L https://zenodo.org/records/12687186/files/BigEarthNet-S2-v1.0.tar.gz"
                " | tar xz --wildcards '*.json'"
            )
        return descend(Path(root).expanduser(), "BigEarthNet-v1.0")

    @cached_property
    def _rows(self) -> dict[str, Row]:
        return {name: row for path in self.tables for name, row in self._read(path)}

    def _read(self, path: Path) -> Iterator[tuple[str, Row]]:
        import pyarrow.parquet as pq

        flags = list(_FLAGS.values()) if path.name == SECOND_TABLE else []
        need = ["patch_id", "labels", "split", *flags]
        need += ["country"] if self.spec.countries else []
        need += ["s2v1_name"] if self.spec.labels == 43 else []
        try:
            extra = {"country"} & set(pq.read_schema(path).names)
            table = pq.read_table(path, columns=sorted({*need, *extra}))
            columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in {*need, *extra}}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: columns {', '.join(need)} are needed; {error}") from None
        for name in ("country", "s2v1_name", *_FLAGS.values()):
            columns.setdefault(name, [None] * len(table))
        reasons = {held: tuple(kind for kind, flag in zip(_FLAGS, held, strict=True) if flag)
                   for held in itertools.product((None, False, True), repeat=len(_FLAGS))}  # fmt: skip
        fields = ("patch_id", "labels", "split", "country", "s2v1_name", *_FLAGS.values())
        for name, labels, split, country, v1_name, *held in zip(*(columns[field] for field in fields), strict=True):
            yield name, Row(tuple(sorted(labels or ())), canonical(split or ""), country, v1_name, reasons[tuple(held)])

    def _wanted(self, row: Row) -> bool:
        in_country = self.spec.countries is None or row.country in self.spec.countries
        return in_country and not set(row.flags) & set(self.spec.drop)

    @override
    def split_files(self) -> dict[str, Path]:
        return {path.name: path for path in self.tables}

    @override
    def dropped(self) -> Set[str]:
        return frozenset(name for name, row in self._rows.items() if set(row.flags) & set(self.spec.drop))

    @override
    def choose(self, refs: list[PatchRef]) -> list[PatchRef]:
        countries = self.spec.countries
        return [ref for ref in super().choose(refs) if countries is None or ref.country in countries]

    @override
    def assign(self, refs: list[PatchRef]) -> Assigned:
        """Split the patches; of those that are not on disk only the ones of the countries asked for are absent."""
        if self.spec.split != "official":
            done = by_fractions_or_none(self.spec, self.spec.split, refs)
            return dataclasses.replace(done, files={path.name: digest_file(path) for path in self.tables})
        here = {ref.id for ref in refs}
        names: dict[str, list[str]] = {}
        for name, row in self._rows.items():
            if name in here or self._wanted(row):
                names.setdefault(row.split, []).append(name)
        return assign_lists(names, here, {TABLE: self.tables[0]}, self.spec.allow_absent)
