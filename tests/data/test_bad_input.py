"""Bad input of every kind: quarantined with a reason, or one clear error. Nothing is ever replaced."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import bigearthnet, eurosat, folders
from fakes.pixels import rgb
from PIL import Image

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import source_digest, write_pack
from ssl_sat.spec import MissingInput, UserError


def quarantined(tmp_path: Path, **config: Any) -> dict[str, str]:
    """Pack with a generous limit; return {id: reason}."""
    out = tmp_path / "pack"
    shutil.rmtree(out, ignore_errors=True)
    metrics = write_pack(SOURCES.parse({"max_quarantined": 0.9, **config}), out)
    with open(out / "quarantine.csv", newline="") as file:
        rows = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert metrics["quarantined"] == len(rows)
    assert not set(rows) & set(Pack.open(out).ids)
    return rows


def test_images(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folders.write_images(root)
    Image.fromarray(rgb("gif", 80, 80)).save(root / "barn" / "0000.JPG", format="GIF")
    (root / "barn" / "0001.png").write_bytes(b"")
    (root / "quay" / "0000.JPG").write_bytes((root / "quay" / "0000.JPG").read_bytes()[:700])
    Image.fromarray(np.zeros((80, 80), np.uint16)).save(root / "quay" / "0001.png")
    (root / "quay" / "0002.JPG").write_text("<html>404 not found</html>")
    reasons = quarantined(tmp_path, name="imagefolder", root=str(root))
    assert sorted(reasons) == ["barn/0000", "barn/0001", "quay/0000", "quay/0001", "quay/0002"]
    assert "holds GIF, not JPEG" in reasons["barn/0000"]
    assert "truncated" in reasons["quay/0000"]
    assert "mode I;16 is not 8-bit" in reasons["quay/0001"]
    assert "cannot identify" in reasons["quay/0002"]


def test_grey_palette_and_alpha_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "data" / "c").mkdir(parents=True)
    grey = rgb("g", 64, 64)[..., 0]
    Image.fromarray(grey).save(tmp_path / "data/c/grey.png")
    Image.fromarray(np.dstack([rgb("a", 64, 64), grey])).save(tmp_path / "data/c/alpha.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "data/c/palette.png")
    assert quarantined(tmp_path, name="imagefolder", root=str(tmp_path / "data")) == {}
    p = Pack.open(tmp_path / "pack")
    (pixels,) = p.read(np.arange(3))
    np.testing.assert_array_equal(pixels[0], np.moveaxis(rgb("a", 64, 64), -1, 0))
    np.testing.assert_array_equal(pixels[1], np.stack([grey] * 3))
    np.testing.assert_array_equal(pixels[2], np.stack([grey] * 3))


def test_eurosat_of_another_size_is_quarantined_not_resized(tmp_path: Path) -> None:
    eurosat.write_rgb(tmp_path / "data")
    Image.fromarray(rgb("x", 32, 32)).save(tmp_path / "data/Forest/Forest_2.jpg")
    reasons = quarantined(tmp_path, name="eurosat_rgb", root=str(tmp_path / "data"), split="none")
    assert reasons == {"Forest_2": "32x32 px, not 64x64"}


def test_arrays(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folders.write_npy(root, 9, dtype="float32")
    good = np.load(root / "test_0.npy")
    bad = good.copy()
    bad[3, 4, 5] = np.nan
    np.save(root / "test_1.npy", bad)
    bad[3, 4, 5] = -np.inf
    np.save(root / "test_2.npy", bad)
    np.save(root / "test_3.npy", good[:, :, :11])
    np.save(root / "test_4.npy", good[:32])
    np.save(root / "test_5.npy", np.array([{"a": 1}], dtype=object))
    np.save(root / "test_6.npy", np.full(good.shape, "text"))
    (root / "test_7.npy").write_bytes((root / "test_7.npy").read_bytes()[:-5])
    np.save(root / "test_8.npy", good.astype(np.float64))
    reasons = quarantined(tmp_path, name="npy", root=str(root))
    assert sorted(reasons) == [f"test_{n}" for n in range(1, 8)]
    assert reasons["test_1"] == reasons["test_2"] == f"1 of {good.size} values are NaN or infinite"
    assert "shape (11, 64, 64), not (12, H, W)" in reasons["test_3"]
    assert reasons["test_4"] == "64x32 px, not 64x64 as the first patch"
    assert "allow_pickle" in reasons["test_5"]


@pytest.mark.parametrize(
    "dtype, fits", [("int16", True), ("int32", True), ("int64", True), ("bool", False), ("complex64", False)]
)
def test_integers_that_fit_are_stored_as_uint16(tmp_path: Path, dtype: str, fits: bool) -> None:
    (tmp_path / "data").mkdir()
    pixels = np.arange(12 * 64 * 64).reshape(64, 64, 12) % 30_000
    np.save(tmp_path / "data/a.npy", pixels.astype(dtype))
    config = {"name": "npy", "root": str(tmp_path / "data")}
    if not fits:
        with pytest.raises(UserError, match=r"none of the 1 patches .* not numeric"):
            quarantined(tmp_path, **config)
        return
    assert quarantined(tmp_path, **config) == {}
    np.testing.assert_array_equal(Pack.open(tmp_path / "pack").read(np.array([0]))[0][0], np.moveaxis(pixels, -1, 0))
    pixels[0, 0, 0] = -1
    np.save(tmp_path / "data/b.npy", pixels.astype(dtype))
    assert "do not fit uint16" in quarantined(tmp_path, **config)["b"]


def test_bigearthnet_patches(tmp_path: Path) -> None:
    root, names = tmp_path / "data", bigearthnet.V1_NAMES
    bigearthnet.write_v1(root)
    for band in ("B09", "B12"):
        (root / names[0] / f"{names[0]}_{band}.tif").unlink()
    bigearthnet.write_band(root / names[1] / f"{names[1]}_B05.tif", np.zeros((1, 120, 120), np.uint16))
    bigearthnet.write_band(root / names[2] / f"{names[2]}_B05.tif", np.zeros((1, 60, 60), np.float32))
    (root / names[3] / f"{names[3]}_labels_metadata.json").unlink()
    (root / names[4] / f"{names[4]}_labels_metadata.json").write_text('{"labels": 3}')
    reasons = quarantined(tmp_path, name="bigearthnet_v1", root=str(root), split="none")
    assert reasons[names[0]] == "2 of 12 bands missing: B12, B09"
    assert "shape (1, 120, 120), not (1, 60, 60)" in reasons[names[1]]
    assert "dtype float32, not uint16" in reasons[names[2]]
    assert "labels_metadata.json: missing" in reasons[names[3]]
    assert "TypeError" in reasons[names[4]]
    assert len(reasons) == 5


def test_meta_json_of_geotiffs(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folders.write_benv2(root)
    first, _, _, second = sorted(folders.BENV2)
    (root / first / "meta.json").unlink()
    (root / second / "meta.json").write_text(json.dumps({"patch_id": second}))
    reasons = quarantined(tmp_path, name="geotiff", root=str(root), split="meta", labels="meta")
    assert set(reasons.values()) == {"meta.json: missing", "meta.json: KeyError: 'labels'"}


def test_the_limit_of_quarantine(tmp_path: Path) -> None:
    folders.write_npy(tmp_path / "data")
    (tmp_path / "data/test_2.npy").write_bytes(b"")
    config = {"name": "npy", "root": str(tmp_path / "data")}
    with pytest.raises(UserError, match=r"1 of 6 patches \(16.7%\).*max_quarantined=0.05.*test_2.*quarantine.csv"):
        write_pack(SOURCES.parse(config), tmp_path / "pack")
    write_pack(SOURCES.parse({**config, "max_quarantined": 1 / 6}), tmp_path / "pack")


def test_all_unreadable(tmp_path: Path) -> None:
    eurosat.write_rgb(tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.jpg"):
        path.write_bytes(b"broken")
    config = {"name": "eurosat_rgb", "root": str(tmp_path / "data"), "split": "none", "max_quarantined": 1.0}
    with pytest.raises(UserError, match="not one of 15 patches can be read"):
        write_pack(SOURCES.parse(config), tmp_path / "pack")


def test_folders_that_are_not_as_they_should_be(tmp_path: Path) -> None:
    def error(kind: type[Exception], said: str, **config: Any) -> None:
        with pytest.raises(kind, match=said):
            write_pack(SOURCES.parse(config), tmp_path / "pack")

    root = tmp_path / "data"
    folders.write_images(root)
    base = {"name": "imagefolder", "root": str(root)}
    error(UserError, "needs train/, val/ or test/", **base, split="folders")
    (root / "empty").mkdir()
    error(UserError, "class folder '.*empty' holds no", **base)
    (root / "empty").rmdir()
    shutil.copy(root / "barn/0001.png", root / "loose.png")
    error(UserError, "loose.png' in .* lies outside the class folders", **base)
    (root / "loose.png").unlink()
    shutil.copy(root / "barn/0000.JPG", root / "barn/0001.jpg")
    error(UserError, "two patches are called 'barn/0001'", **base)
    (root / "barn/0001.jpg").unlink()
    Image.fromarray(rgb("big", 90, 80)).save(root / "quay/0003.png")
    error(UserError, r"several sizes.*quay/0003.png is 80x90, the first is 80x80.*size_px", **base, size_px=None)
    error(UserError, "needs? class folders", **base, labels="none", max_per_class=3)


@pytest.mark.parametrize("name", [name for name in SOURCES.names() if name != "scenes"])
def test_missing_folders_say_what_was_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=rf"{name}: data\.root is not set\. It must be "):
        source_digest(SOURCES.parse({"name": name}))
    with pytest.raises(MissingInput, match=r"no folder '.*nowhere'"):
        source_digest(SOURCES.parse({"name": name, "root": str(tmp_path / "nowhere")}))
    split = {} if name in ("npy", "geotiff", "imagefolder", "ucmerced") else {"split": "none"}
    with pytest.raises(UserError, match="no patches in"):
        write_pack(SOURCES.parse({"name": name, "root": str(tmp_path), **split}), tmp_path / "pack")


def test_missing_lists_say_where_they_are_published(tmp_path: Path) -> None:
    bigearthnet.write_v1(tmp_path / "v1")
    bigearthnet.write_v2(tmp_path / "v2", with_metadata=False)
    eurosat.write_ms(tmp_path / "ms")
    said = {"bigearthnet_v1": ("v1", r"no train.csv.*metadata_dir"), "bigearthnet_v2": ("v2", "no metadata.parquet"),
            "eurosat_ms": ("ms", "no eurosat-train.txt.*splits_dir")}  # fmt: skip
    for name, (folder, text) in said.items():
        with pytest.raises(MissingInput, match=text):
            write_pack(SOURCES.parse({"name": name, "root": str(tmp_path / folder)}), tmp_path / "pack")


def test_bigearthnet_v2_without_metadata_has_no_labels(tmp_path: Path) -> None:
    bigearthnet.write_v2(tmp_path / "v2", with_metadata=False)
    assert quarantined(tmp_path, name="bigearthnet_v2", root=str(tmp_path / "v2"), split="none") == {}
    p = Pack.open(tmp_path / "pack")
    assert p.manifest.label_kind == "none" and p.labels.tolist() == [-1] * 4
    assert p.index["place"] == ["33UUP", "33UUP", "34WFU", "34WFU"]
    assert p.index["time"][0] == "2017-06-13"


def test_offset_of_2022(tmp_path: Path) -> None:
    late = "S2A_MSIL2A_20220701T101031_N9999_R022_T33UUP"
    for root, tiles in (("late", [late]), ("mixed", [late, late.replace("2022", "2021")])):
        for tile in tiles:
            bigearthnet.write_patch(tmp_path / root / tile / f"{tile}_1_1")
    assert quarantined(tmp_path, name="bigearthnet_v2", root=str(tmp_path / "late"), split="none") == {}
    assert Pack.open(tmp_path / "pack").manifest.offset == 1000.0
    with pytest.raises(UserError, match="before and after 2022-01-25"):
        quarantined(tmp_path, name="bigearthnet_v2", root=str(tmp_path / "mixed"), split="none")
