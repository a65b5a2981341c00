"""What doctor says of data sets as they lie on disk: whole, in part, in the wrong place, damaged."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import bigearthnet, eurosat
from scipy.stats import binom

from ssl_sat.data import SOURCES
from ssl_sat.data.packing import write_pack
from ssl_sat.diagnosis.finding import Finding
from ssl_sat.diagnosis.source import Look, examine


@contextmanager
def unwatched(label, unit):
    yield lambda done, total, size=0: None


def look(tmp_path: Path, **changes) -> Look:
    return dataclasses.replace(Look(100, False, 1, tmp_path / "outputs", unwatched), **changes)


def of(tmp_path: Path, packed: Path | None = None, samples: int = 100, deep: bool = False, workers: int = 1, **config):
    """Findings by subject; of several with one subject, the worst."""
    found: dict[str, Finding] = {}
    seen = look(tmp_path, samples=samples, deep=deep, workers=workers)
    for finding in examine(SOURCES.parse(config), seen, packed):
        if finding.subject not in found or finding.state == "WRONG":
            found[finding.subject] = finding
    return found


def states(found: dict[str, Finding]) -> dict[str, str]:
    return {subject: finding.state for subject, finding in found.items()}


@pytest.fixture
def ms(tmp_path) -> Path:
    eurosat.write_ms(tmp_path / "EuroSAT_MS")
    eurosat.write_lists(tmp_path / "eurosat_splits")
    return tmp_path / "EuroSAT_MS"


@pytest.fixture
def v1(tmp_path) -> Path:
    bigearthnet.write_v1(tmp_path / "BigEarthNet-v1.0", tmp_path)
    return tmp_path / "BigEarthNet-v1.0"


def test_a_whole_set_and_what_it_costs(tmp_path, ms):
    found = of(tmp_path, name="eurosat_ms", root=str(ms))
    assert "WRONG" not in states(found).values()
    assert found["splits"].text == "train 9, val 3, test 3 (3 classes)"
    assert found["patches"].text == "all 15 patches read, none is damaged"
    assert "(15 records of 106,496 bytes)" in found["disk"].text and "the pack takes 1.6 MB of" in found["disk"].text
    metrics = write_pack(SOURCES.parse({"name": "eurosat_ms", "root": str(ms)}), tmp_path / "pack")
    assert metrics["bytes"] == 15 * 106_496
    assert "9 training patches are 958.5 kB" in found["memory"].text
    assert found["lists"].text.startswith("not as published: eurosat-test.txt")  # they are of this test
    assert found["lists"].state == "note" and "only=lists" in found["lists"].then


def test_a_pack_that_is_there_costs_nothing_more(tmp_path, ms):
    found = of(tmp_path, packed=tmp_path / "there", name="eurosat_ms", root=str(ms))
    assert found["packed"].text == f"already, in {tmp_path / 'there'}" and "disk" not in found and "time" not in found


def test_missing_lists_and_the_patches_are_looked_at_all_the_same(tmp_path, v1):
    (tmp_path / "val.csv.bz2").unlink()
    found = of(tmp_path, name="bigearthnet_v1", root=str(v1))
    assert found["lists"].state == "WRONG" and "no val.csv[.bz2]" in found["lists"].text
    assert f"python -m ssl_sat.download bigearthnet_v1 only=lists to={tmp_path}" in found["lists"].text
    assert "splits" not in found and found["patches"].text == "all 6 patches read, none is damaged"
    assert "disk" not in found  # how much would be packed is not known


def test_names_that_are_not_on_disk(tmp_path, ms):
    shutil.rmtree(ms / "Forest")
    found = of(tmp_path, name="eurosat_ms", root=str(ms))
    assert found["splits"].state == "WRONG" and "5 of 15 images named by the split lists" in found["splits"].text
    found = of(tmp_path, name="eurosat_ms", root=str(ms), allow_absent=True)
    assert found["splits"].state == "note" and "5 named by a list but not on disk" in found["splits"].text


def test_a_truncated_and_a_missing_band(tmp_path, v1):
    torn, robbed = bigearthnet.V1_NAMES[0], bigearthnet.V1_NAMES[1]
    band = v1 / torn / f"{torn}_B02.tif"
    band.write_bytes(band.read_bytes()[:5000])
    (v1 / robbed / f"{robbed}_B09.tif").unlink()
    found = of(tmp_path, name="bigearthnet_v1", root=str(v1))
    patches = found["patches"]
    assert patches.state == "WRONG" and patches.text.startswith("2 of all 6 patches cannot be read:")
    assert f"{robbed}: 1 of 12 bands missing: B09" in patches.text and f"{torn}: {torn}_B02.tif" in patches.text
    assert "data.max_quarantined=0.05" in patches.then
    found = of(tmp_path, name="bigearthnet_v1", root=str(v1), max_quarantined=0.4)
    assert found["patches"].state == "note" and "quarantine.csv" in found["patches"].then


@pytest.mark.parametrize("deep, workers", [(True, 2), (True, 1), (False, 1)])
def test_a_deep_look_in_several_processes_finds_the_same(tmp_path, ms, deep, workers):
    bad = ms / "Forest" / "Forest_3.tif"
    bad.write_bytes(bad.read_bytes()[:-50_000])
    found = of(tmp_path, deep=deep, workers=workers, name="eurosat_ms", root=str(ms), max_quarantined=0.5)
    assert found["patches"].text.startswith("1 of all 15 patches cannot be read:\nForest/Forest_3.tif:")


def test_a_sample_says_what_it_cannot_exclude(tmp_path, ms):
    found = of(tmp_path, samples=5, name="eurosat_ms", root=str(ms))
    text = found["patches"].text
    assert text.startswith("a sample of 5 of 15 patches read, none is damaged")
    bound = float(text.partition("less than ")[2].partition("%")[0]) / 100
    assert binom.cdf(0, 5, bound) == pytest.approx(0.05, abs=1e-3)  # Clopper and Pearson 1934
    assert of(tmp_path, samples=5, name="eurosat_ms", root=str(ms))["patches"] == found["patches"]  # seeded


def test_wrong_roots(tmp_path, ms):
    found = of(tmp_path, name="eurosat_ms", root=str(tmp_path / "EuroSAT_M"))
    assert states(found) == {"folder": "WRONG"} and "did you mean 'EuroSAT_MS'?" in found["folder"].then
    assert "python -m ssl_sat.download eurosat_ms" in found["folder"].text
    (tmp_path / "deeper" / "and").mkdir(parents=True)
    shutil.move(ms, tmp_path / "deeper" / "and" / "EuroSAT_MS")
    found = of(tmp_path, name="eurosat_ms", root=str(tmp_path / "deeper"))
    assert f"may be those of '{tmp_path}/deeper/and/EuroSAT_MS': set data.root" in found["splits"].text
    (tmp_path / "deeper" / "and" / "EuroSAT_MS").rename(tmp_path / "Tiles")
    found = of(tmp_path, name="bigearthnet_v1", root=str(tmp_path))
    assert found["folder"].state == "WRONG" and "no patches in" in found["folder"].text
    bigearthnet.write_v1(tmp_path / "sets" / "ben")
    found = of(tmp_path, name="bigearthnet_v1", root=str(tmp_path))
    assert found["folder"].then == f"there are patches in '{tmp_path}/sets/ben': data.root={tmp_path}/sets/ben"
    found = of(tmp_path, name="eurosat_ms")
    assert "data.root is not set" in found["folder"].text


def test_a_disk_without_room(tmp_path, ms, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15 * (106_496 + 400) - 1))
    found = of(tmp_path, name="eurosat_ms", root=str(ms))
    assert found["disk"].state == "WRONG" and "outputs=" in found["disk"].then
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15 * (106_496 + 400)))
    assert of(tmp_path, name="eurosat_ms", root=str(ms))["disk"].state == "cost"


def test_real_sets(tmp_path, real_data, unzipped):
    metadata = {"metadata_dir": str(real_data / "bigearthnet_metadata"), "allow_absent": True}
    root = str(unzipped("BigEarthNet-v1.0_sample.zip"))
    found = of(tmp_path, name="bigearthnet_v1", root=root, **metadata)
    assert found["splits"].text.startswith("train 7, val 3, test 3 (10 classes); 519,271 named by a list")
    assert found["lists"].text.endswith(", as published")
    assert found["folder"].text.endswith("14 patches, 590,326 were published")
    assert "(13 records of 160,000 bytes)" in found["disk"].text
    found = of(tmp_path, name="npy", root=str(unzipped("S2_L2A_unlabelled_sample.zip")), samples=20)
    assert "WRONG" not in states(found).values() and "(600 records of 98,304 bytes)" in found["disk"].text
