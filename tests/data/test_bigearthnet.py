"""BigEarthNet's lists, tables, nomenclatures and filters, on generated sets and on the published metadata."""

import bz2
import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import bigearthnet as fake

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import source_digest, write_pack
from ssl_sat.data.sources.bigearthnet import baseline_offset
from ssl_sat.data.sources.contract import Listing
from ssl_sat.data.sources.nomenclature import FORTY_THREE, NINETEEN, WITHOUT_COUNTERPART, to_19
from ssl_sat.data.spec import Country
from ssl_sat.data.splits import read_names
from ssl_sat.spec import ConfigError, MissingInput, UserError

REAL = Path(os.environ.get("SSL_SAT_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
METADATA = REAL / "bigearthnet_metadata"
published = pytest.mark.skipif(not METADATA.is_dir(), reason=f"no {METADATA}")
SNOW, CLOUD = "patches_with_seasonal_snow", "patches_with_cloud_and_shadow"


def listing(**config: Any) -> Listing:
    source: Any = SOURCES.build(SOURCES.parse(config))
    return source.listing()


def ids(found: Listing) -> set[str]:
    return {ref.id for ref in found.refs}


def write_list(folder: Path, name: str, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv.bz2").write_bytes(bz2.compress("\n".join(names).encode()))


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """Six patches and, in lists/, splits of the first four, snow in the fifth and cloud in the sixth."""
    fake.write_v1(tmp_path / "BigEarthNet-v1.0")
    names = fake.V1_NAMES
    for split, members in (("train", names[:2]), ("val", names[2:3]), ("test", names[3:4])):
        write_list(tmp_path / "lists", split, list(members))
    write_list(tmp_path / "lists", SNOW, [names[4]])
    write_list(tmp_path / "lists", CLOUD, [names[5]])
    return tmp_path


def of_v1(root: Path, **config: Any) -> dict[str, Any]:
    return {"name": "bigearthnet_v1", "root": str(root), "metadata_dir": str(root / "lists"), **config}


def test_drop_leaves_out_by_list_under_every_split(v1: Path) -> None:
    names = fake.V1_NAMES
    for drop, left in (([], 6), (["snow"], 5), (["cloud"], 5), (["snow", "cloud"], 4)):
        for split in ("none", "fractions"):
            found = listing(**of_v1(v1, split=split, drop=drop))
            assert len(found.refs) == left and found.filtered == 6 - left
            lists = {f"{name}.csv.bz2" for name, kind in ((SNOW, "snow"), (CLOUD, "cloud")) if kind in drop}
            assert set(found.split_files) == lists
    official = listing(**of_v1(v1, drop=["snow", "cloud"]))
    assert ids(official) == set(names[:4]) and (official.unlisted, official.filtered) == (2, 0)
    assert ids(official) == ids(listing(**of_v1(v1)))


def test_a_patch_keeps_its_split_when_others_are_dropped(v1: Path) -> None:
    config = of_v1(v1, split="fractions", val_fraction=0.3, test_fraction=0.3)
    every = {ref.id: ref.split for ref in listing(**config).refs}
    some = {ref.id: ref.split for ref in listing(**config, drop=["snow"]).refs}
    assert some == {name: split for name, split in every.items() if name in some}


def test_patches_in_no_split_have_no_json_read(v1: Path) -> None:
    """Half of BigEarthNet's files need not be opened: those of the patches left out may as well be broken."""
    for name in fake.V1_NAMES[4:]:
        (v1 / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json").write_text("{")
    assert all(ref.problem is None for ref in listing(**of_v1(v1)).refs)
    assert all(ref.problem is None for ref in listing(**of_v1(v1, split="none", drop=["snow", "cloud"])).refs)
    assert sum(ref.problem is not None for ref in listing(**of_v1(v1, split="none")).refs) == 2


def test_missing_lists_say_where_to_get_them(v1: Path) -> None:
    (v1 / "lists" / f"{SNOW}.csv.bz2").unlink()
    with pytest.raises(MissingInput, match=rf"(?s)no {SNOW}\.csv\[\.bz2\] in .*curl -LO https://\S+/{SNOW}\.csv\.bz2$"):
        listing(**of_v1(v1, split="none", drop=["snow"]))
    assert len(listing(**of_v1(v1, split="none", drop=["cloud"])).refs) == 5
    (v1 / "lists" / "val.csv.bz2").unlink()
    with pytest.raises(MissingInput, match=r"(?s)no val\.csv\[\.bz2\] in .*curl -LO https://\S+/val\.csv\.bz2"):
        listing(**of_v1(v1))


def test_lists_that_overlap_the_splits_are_refused(v1: Path) -> None:
    write_list(v1 / "lists", SNOW, [fake.V1_NAMES[0], fake.V1_NAMES[4]])
    with pytest.raises(UserError, match=f"1 patches are in an official split .* the first: {fake.V1_NAMES[0]}"):
        listing(**of_v1(v1, drop=["snow"]))


def test_lists_are_part_of_the_digest_and_paths_are_not(v1: Path) -> None:
    spec = SOURCES.parse(of_v1(v1, split="none", drop=["snow"]))
    before = source_digest(spec)
    assert set(before["split_files"]) == {f"{SNOW}.csv.bz2"}
    write_list(v1 / "lists", SNOW, [fake.V1_NAMES[3]])
    assert source_digest(spec) != before
    assert listing(**of_v1(v1, split="none", drop=["snow"])).split_files == source_digest(spec)["split_files"]


def test_labels_of_19_and_patches_without_any(v1: Path) -> None:
    name = fake.V1_NAMES[0]
    path = v1 / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": ["Bare rock", "Airports"]}))
    found = {ref.id: ref.labels for ref in listing(**of_v1(v1, split="none", labels=19)).refs}
    assert found[name] == ()
    assert found[fake.V1_NAMES[1]] == ("Marine waters", "Pastures")
    assert ids(listing(**of_v1(v1, split="none", labels=19, drop=["unlabelled"]))) == set(fake.V1_NAMES[1:])
    assert len(listing(**of_v1(v1, split="none", drop=["unlabelled"])).refs) == 6
    write_pack(SOURCES.parse(of_v1(v1, labels=19)), v1 / "pack")
    pack = Pack.open(v1 / "pack")
    assert pack.classes == ("Coniferous forest", "Marine waters", "Mixed forest", "Pastures")
    assert pack.labels[pack.ids.index(name)].sum() == 0
    assert pack.manifest.baselines == ["N0205"] and "N0205" in pack.manifest.offset_basis
    assert pack.index["country"] == [None] * 4


def test_an_unknown_label_is_quarantined_under_19(v1: Path) -> None:
    name = fake.V1_NAMES[0]
    path = v1 / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": ["Lava"]}))
    write_pack(SOURCES.parse(of_v1(v1, labels=19, max_quarantined=0.5)), v1 / "pack")
    with open(v1 / "pack" / "quarantine.csv", newline="") as file:
        assert "not among the 43 CORINE level-3 classes: 'Lava'" in next(csv.DictReader(file))["reason"]


def test_nomenclature() -> None:
    assert len(NINETEEN) == 19 and len(FORTY_THREE) == 43 and len(WITHOUT_COUNTERPART) == 11
    assert sum(map(len, NINETEEN.values())) + 11 == 43
    assert to_19(["Sea and ocean", "Estuaries", "Bare rock", "Transitional woodland/shrub"]) == (
        "Marine waters",
        "Transitional woodland, shrub",
    )
    with pytest.raises(ValueError, match="'Sea'"):
        to_19(["Sea"])


@pytest.mark.parametrize(
    "baseline, time, offset",
    [
        ("N0205", "2017-06-13", 0.0),
        ("N0301", "2022-02-01", 0.0),
        ("N0500", "2017-06-13", 1000.0),
        ("N0400", None, 1000.0),
        ("N9999", "2017-06-13", 0.0),
        ("N9999", "2022-07-01", 1000.0),
        (None, "2022-01-24", 0.0),
        (None, "2022-01-25T10:00:00", 1000.0),
        (None, None, 0.0),
    ],
)
def test_offset_by_baseline_or_else_by_date(baseline: str | None, time: str | None, offset: float) -> None:
    assert baseline_offset(baseline, time) == offset


COUNTRIES = ("Austria", "Austria", "Finland", "Finland")


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """Four patches: three in metadata.parquet, the last in the table of snow and cloud."""
    fake.write_v2(tmp_path, with_metadata=False)
    columns = {
        "patch_id": list(fake.V2_NAMES),
        "labels": list(fake.V2_LABELS),
        "split": ["train", "validation", "test", "train"],
        "country": list(COUNTRIES),
        "s2v1_name": list(fake.V1_NAMES[:4]),
        "contains_seasonal_snow": [False, False, False, True],
        "contains_cloud_or_shadow": [False] * 4,
    }
    table = pa.table(columns)
    pq.write_table(table.slice(0, 3), tmp_path / "metadata.parquet")
    pq.write_table(table.slice(3), tmp_path / "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
    return tmp_path


def of_v2(root: Path, **config: Any) -> dict[str, Any]:
    return {"name": "bigearthnet_v2", "root": str(root), **config}


def test_v2_snow_and_cloud_come_from_the_second_table(v2: Path) -> None:
    official = listing(**of_v2(v2, drop=["snow", "cloud"]))
    assert {ref.id: ref.split for ref in official.refs} == dict(
        zip(fake.V2_NAMES, ("train", "val", "test"), strict=False)
    )
    every = listing(**of_v2(v2, split="none"))
    assert {ref.id: (ref.labels, ref.country) for ref in every.refs} == {
        name: (tuple(sorted(labels)), country)
        for name, labels, country in zip(fake.V2_NAMES, fake.V2_LABELS, COUNTRIES, strict=True)
    }
    assert len(listing(**of_v2(v2, split="none", drop=["cloud"])).refs) == 4
    assert ids(listing(**of_v2(v2, split="none", drop=["snow"]))) == set(fake.V2_NAMES[:3])
    (v2 / "metadata_for_patches_with_snow_cloud_or_shadow.parquet").unlink()
    with pytest.raises(MissingInput, match=r"curl -LO https://zenodo\.org/records/10891137/files/metadata_for_"):
        listing(**of_v2(v2, split="none", drop=["snow"]))
    assert len(listing(**of_v2(v2, drop=["snow"])).refs) == 3  # official leaves them out without it


@pytest.mark.parametrize("split", ["official", "none", "fractions"])
def test_v2_countries(v2: Path, split: str) -> None:
    wanted = {name for name, country in zip(fake.V2_NAMES, COUNTRIES, strict=True) if country == "Finland"}
    found = listing(**of_v2(v2, split=split, countries=["Finland"]))
    assert ids(found) == (wanted - {fake.V2_NAMES[3]} if split == "official" else wanted)
    assert found.filtered == 2
    write_pack(SOURCES.parse(of_v2(v2, split=split, countries=["Finland"])), v2 / "pack")
    assert set(Pack.open(v2 / "pack").index["country"]) == {"Finland"}
    with pytest.raises(UserError, match="the filters leave none"):
        listing(**of_v2(v2, split=split, countries=["Serbia"]))


def test_v2_of_one_country_on_disk_is_complete(v2: Path) -> None:
    """Patches of other countries that the table names and the disk lacks are not missed."""
    shutil.rmtree(v2 / "BigEarthNet-S2" / fake.V2_NAMES[2].rsplit("_", 2)[0])
    assert listing(**of_v2(v2, countries=["Austria"])).absent == 0
    with pytest.raises(UserError, match="1 of 3 images"):
        listing(**of_v2(v2))


def test_v2_countries_are_named_in_the_error() -> None:
    with pytest.raises(ConfigError, match=r"countries(.|\n)*'Austria', 'Belgium'(.|\n)*did you mean 'Finland'"):
        SOURCES.parse({"name": "bigearthnet_v2", "countries": ["Finnland"]})
    with pytest.raises(ConfigError, match="at least one of Austria, Belgium"):
        SOURCES.parse({"name": "bigearthnet_v2", "countries": []})


def test_v2_with_43_labels_of_v1(v2: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    older = tmp_path_factory.mktemp("v1")
    fake.write_v1(older / "BigEarthNet-v1.0")
    found = {ref.id: ref for ref in listing(**of_v2(v2, labels=43, v1_root=str(older))).refs}
    assert [found[name].labels for name in fake.V2_NAMES[:3]] == [tuple(sorted(ls)) for ls in fake.V1_LABELS[:3]]
    assert {ref.baseline for ref in found.values()} == {"N9999"} and found[fake.V2_NAMES[2]].place == "34WFU"
    (older / "BigEarthNet-v1.0" / fake.V1_NAMES[0] / f"{fake.V1_NAMES[0]}_labels_metadata.json").unlink()
    refs = {ref.id: ref for ref in listing(**of_v2(v2, labels=43, v1_root=str(older))).refs}
    assert refs[fake.V2_NAMES[0]].problem == f"{fake.V1_NAMES[0]}_labels_metadata.json: missing"
    with pytest.raises(MissingInput, match=r"data\.v1_root is not set"):
        listing(**of_v2(v2, labels=43))
    with pytest.raises(MissingInput, match="no folder '/nowhere'"):
        listing(**of_v2(v2, labels=43, v1_root="/nowhere"))


def test_v2_without_tables(v2: Path) -> None:
    for path in v2.glob("*.parquet"):
        path.unlink()
    for config in ({}, {"split": "none", "countries": ["Austria"]}, {"split": "none", "labels": 43}):
        with pytest.raises(MissingInput, match=r"(?s)no metadata\.parquet in .*zenodo\.org/records/10891137/files"):
            listing(**of_v2(v2, **config))
    assert listing(**of_v2(v2, split="none")).label_kind == "none"


class Named(NamedTuple):
    """As much of a PatchRef as `assign` asks for."""

    id: str


@published
def test_published_v1_lists_resolve_to_the_official_counts(tmp_path: Path) -> None:
    """The source itself assigns every name of a listing that holds all names, and drops exactly the two lists."""
    names = {kind: read_names(METADATA / f"{kind}.csv.bz2") for kind in ("train", "val", "test", SNOW, CLOUD)}
    base = tmp_path / "BigEarthNet-v1.0"
    base.mkdir()
    source: Any = SOURCES.build(SOURCES.parse({"name": "bigearthnet_v1", "root": str(tmp_path),
                                               "metadata_dir": str(METADATA), "drop": ["snow", "cloud"]}))  # fmt: skip
    refs = [Named(name) for members in names.values() for name in members]
    assigned = source.assign(refs)
    assert Counter(assigned.split_of.values()) == {"train": 269_695, "val": 123_723, "test": 125_866}
    assert assigned.absent == 0 and len(refs) == 590_271
    assert len(source.dropped()) == 61_707 + 9_280
    assert not source.dropped() & set(assigned.split_of)
    # 55 of the 590,326 patches are in no list: all their labels are among the 11 without counterpart (docs/datasets.md)
    assert 590_326 - len(refs) == 55


@published
def test_published_v2_tables_give_the_official_counts_labels_and_countries(tmp_path: Path) -> None:
    (tmp_path / "BigEarthNet-S2").mkdir()
    config = {"root": str(tmp_path), "split": "none", "metadata_dir": str(METADATA), "labels": 43}
    source: Any = SOURCES.build(SOURCES.parse({"name": "bigearthnet_v2", "drop": ["snow", "cloud"], **config}))
    rows = source._rows
    clean = {name: row for name, row in rows.items() if not row.flags}
    assert Counter(row.split for row in clean.values()) == {"train": 237_871, "val": 122_342, "test": 119_825}
    assert len(source.dropped()) == len(rows) - len(clean) == 69_450
    assert {label for row in rows.values() for label in row.labels} == set(NINETEEN)
    assert {row.country for row in rows.values()} == set(get_args(Country))
    # every patch of v2 is one of v1's, and the clean ones are in v1's splits
    official = {name for split in ("train", "val", "test") for name in read_names(METADATA / f"{split}.csv.bz2")}
    left_out = {name for kind in (SNOW, CLOUD) for name in read_names(METADATA / f"{kind}.csv.bz2")}
    assert {row.v1_name for row in clean.values()} < official
    assert {row.v1_name for row in rows.values() if row.flags} < left_out
