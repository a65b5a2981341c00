"""What doctor says of packs: sound, shortened, flipped, with tables that do not agree."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import eurosat

from ssl_sat.data import SOURCES
from ssl_sat.data.packing import write_pack
from ssl_sat.diagnosis.pack import examine_pack


@contextmanager
def unwatched(label, unit):
    yield lambda done, total, size=0: None


@pytest.fixture
def pack(tmp_path) -> Path:
    eurosat.write_rgb(tmp_path / "EuroSAT_RGB")
    eurosat.write_lists(tmp_path / "eurosat_splits")
    write_pack(SOURCES.parse({"name": "eurosat_rgb", "root": str(tmp_path / "EuroSAT_RGB")}), tmp_path / "pack")
    return tmp_path / "pack"


def of(pack: Path, samples: int = 100, deep: bool = False) -> list[tuple[str, str, str]]:
    return [(f.state, f.subject, f.text) for f in examine_pack(pack, samples, deep, 2, unwatched)]


def broken(pack: Path, **how) -> dict[str, str]:
    return {subject: text for state, subject, text in of(pack, **how) if state == "WRONG"}


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_pack(pack, deep):
    found = {subject: text for state, subject, text in of(pack, deep=deep)}
    assert broken(pack, deep=deep) == {}
    assert found["pack"] == ("eurosat_rgb, Sentinel-2 display, 15 records of 12,288 bytes (184.3 kB): "
                             "train 9, val 3, test 3")  # fmt: skip
    assert found["records"].startswith("all 15 records" if deep else "a sample of 15 of 15")
    assert ("file" in found) == deep


def test_a_flipped_bit_is_found_and_its_patch_named(pack):
    with open(pack / "patches.bin", "r+b") as file:
        file.seek(12_288 * 7 + 5000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    name = pq.read_table(pack / "index.parquet")["id"][7].as_py()
    assert f"1 of all 15 records differ from their digests: row 7 ({name})" in broken(pack, deep=True)["records"]
    assert set(broken(pack, deep=True)) == {"records", "file"}
    assert set(broken(pack, samples=15)) == {"records"}


def test_a_shortened_file_and_no_pack(pack, tmp_path):
    with open(pack / "patches.bin", "r+b") as file:
        file.truncate(12_288 * 14)
    assert "172032 bytes, but 15 records of 12288 need 184320" in broken(pack)["pack"]
    assert "no pack at" in broken(tmp_path / "nowhere")["pack"]
    (pack / "manifest.json").write_text("{")
    assert "manifest.json" in broken(pack)["pack"]


def test_tables_that_do_not_agree(pack):
    table = pq.read_table(pack / "index.parquet")
    pq.write_table(table.slice(0, 14), pack / "index.parquet")
    assert broken(pack) == {"index": "index.parquet has 14 rows, manifest.json says 15"}
    ids = ["same", "same", *table["id"].to_pylist()[2:]]
    splits = ["test", *table["split"].to_pylist()[1:]]
    changed = table.set_column(0, "id", pa.array(ids)).set_column(1, "split", pa.array(splits))
    pq.write_table(changed, pack / "index.parquet")
    texts = [text for state, subject, text in of(pack) if state == "WRONG"]
    assert texts == ["1 names occur twice", "1 rows are of another split than manifest.json says"]
    (pack / "index.parquet").write_bytes(b"no table")
    assert "index.parquet cannot be read" in broken(pack)["index"]


def test_statistics_and_quarantine(pack):
    stats = json.loads((pack / "stats.json").read_text())
    stats["bands"]["B04"]["std"] = 0.0
    (pack / "stats.json").write_text(json.dumps(stats))
    assert any(state == "note" and subject == "stats" and "B04" in text for state, subject, text in of(pack))
    del stats["bands"]["B04"]
    (pack / "stats.json").write_text(json.dumps(stats))
    assert "stats.json is of the bands" in broken(pack)["stats"]
    (pack / "stats.json").unlink()
    with open(pack / "quarantine.csv", "a") as file:
        file.write("a,b,c\n")
    assert set(broken(pack)) == {"stats", "quarantine"}
