"""Packs: record layout, statistics against a float64 oracle, quarantine limits, digests, reading."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import bigearthnet, eurosat, folders
from fakes.pixels import uint16

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import source_digest, write_pack
from ssl_sat.data.statistics import BandHistograms
from ssl_sat.spec import MissingInput, UserError

REPO = Path(__file__).parents[2]


def pack(tmp_path: Path, **config: Any) -> Pack:
    write_pack(SOURCES.parse(config), tmp_path / "pack")
    return Pack.open(tmp_path / "pack")


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    root = tmp_path_factory.mktemp("v1")
    bigearthnet.write_v1(root / "data", root / "lists")
    return pack(root, name="bigearthnet_v1", root=str(root / "data"), metadata_dir=str(root / "lists"))


def test_bigearthnet_record_is_160000_bytes_in_the_stated_order(v1: Pack) -> None:
    data = (v1.folder / "patches.bin").read_bytes()
    assert v1.manifest.record_bytes == 160_000 and len(data) == 6 * 160_000
    name = v1.ids[0]
    first = np.frombuffer(data, "<u2", 14_400)
    np.testing.assert_array_equal(first, uint16(f"{name}_B02", (1, 120, 120)).ravel())
    b05 = np.frombuffer(data, "<u2", 3600, offset=4 * 28_800)
    np.testing.assert_array_equal(b05, uint16(f"{name}_B05", (1, 60, 60)).ravel())
    b09 = np.frombuffer(data, "<u2", 400, offset=160_000 - 800)
    np.testing.assert_array_equal(b09, uint16(f"{name}_B09", (1, 20, 20)).ravel())


def test_statistics_match_numpy_on_the_training_split(v1: Pack) -> None:
    assert v1.stats.split == "train" and v1.stats.patches == 3 and v1.stats.unit == "reflectance"
    train, at = v1.read(v1.rows("train")), 0
    for group, array in zip(v1.groups, train, strict=True):
        for channel, name in enumerate(group.bands):
            values, got = array[:, channel].astype(np.float64).ravel() / 10_000, v1.stats[name]
            np.testing.assert_allclose([got.mean, got.std], [values.mean(), values.std()], rtol=1e-12)
            assert (got.min, got.max, got.count) == (values.min(), values.max(), values.size)
            quantiles = np.quantile(values, (0.01, 0.5, 0.99), method="inverted_cdf")
            assert (got.p01, got.p50, got.p99) == tuple(quantiles)
            at += 1
    assert at == 12
    assert v1.stats.mean(["B8A", "B01"]) == [v1.stats["B8A"].mean, v1.stats["B01"].mean]
    assert v1.stats.std(("B01",)) == [v1.stats["B01"].std]


def test_float_statistics_and_an_offset(tmp_path: Path) -> None:
    folders.write_npy(tmp_path / "data", dtype="float32")
    p = pack(tmp_path, name="npy", root=str(tmp_path / "data"), split_name="pool", scale=2.0, offset=0.1)
    assert p.stats.split == "all" and p.stats.percentiles == "sampled" and p.manifest.dtype == "float32"
    (array,) = p.read(p.rows("pool"))
    for channel, name in enumerate(p.bands):
        values = (array[:, channel].astype(np.float64).ravel() - 0.1) / 2.0
        got = p.stats[name]
        np.testing.assert_allclose([got.mean, got.std], [values.mean(), values.std()], rtol=1e-9)
        np.testing.assert_allclose(
            [got.min, got.p50, got.max], [values.min(), np.median(values), values.max()], atol=1e-4
        )


def test_histograms_do_not_depend_on_the_pieces() -> None:
    pixels = np.random.default_rng(0).integers(0, 65_536, (10, 2, 8, 8), dtype=np.uint16)
    whole, parts = BandHistograms(("a", "b"), "uint16", 10), BandHistograms(("a", "b"), "uint16", 10)
    whole.add(pixels, 0)
    for patch in pixels[::-1]:
        parts.add(patch[None, :1], 0)
        parts.add(patch[None, 1:], 1)
    assert whole.summary(10_000.0, 1000.0) == parts.summary(10_000.0, 1000.0)


def test_reading_gives_views_of_one_copy_and_batches_keep_the_bits(v1: Pack) -> None:
    rows = np.array([4, 0, 4])
    buffer = np.empty((3, 80_000), "<u2")
    arrays = v1.read(rows, out=buffer)
    assert [a.shape for a in arrays] == [(3, 4, 120, 120), (3, 6, 60, 60), (3, 2, 20, 20)]
    assert all(a.base is not None and np.shares_memory(a, buffer) for a in arrays)
    batch = v1.batch(rows)
    for array, tensor in zip(arrays, batch.groups, strict=True):
        assert tensor.dtype == torch.int16
        np.testing.assert_array_equal((tensor.int() & 0xFFFF).numpy(), array)
    assert batch.rows_N.tolist() == [4, 0, 4] and batch.rows_N.dtype == torch.int64
    assert batch.labels_N.dtype == torch.float32 and batch.labels_N.shape == (3, len(v1.classes))
    with pytest.raises(IndexError, match=r"6 outside 0\.\.5"):
        v1.read(np.array([6]))
    with pytest.raises(ValueError, match="read-only"):
        v1.records[0, 0] = 1


def test_numbers_above_32767_survive(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pixels = np.linspace(0, 65_535, 12 * 64 * 64).round().astype(np.uint16).reshape(12, 64, 64)
    np.save(tmp_path / "data" / "a.npy", pixels)
    p = pack(tmp_path, name="npy", root=str(tmp_path / "data"), layout="channels_first")
    np.testing.assert_array_equal((p.batch(np.array([0])).groups[0].int() & 0xFFFF).numpy()[0], pixels)


def test_the_reader_on_the_page_works(v1: Pack) -> None:
    page = (REPO / "docs" / "pack_format.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {}
    exec(code, space)
    bands = space["read_pack"](v1.folder, "test")
    arrays = v1.read(v1.rows("test"))
    assert tuple(bands) == v1.bands
    np.testing.assert_array_equal(bands["B8A"], arrays[1][:, 3].astype("float32") / 10_000)


def test_decode_hash_is_equal_whatever_the_codec_and_differs_with_the_path(tmp_path: Path) -> None:
    eurosat.write_rgb(tmp_path / "eurosat")
    folders.write_ucmerced(tmp_path / "ucm")

    def decode(name: str, root: str, **config: Any) -> str:
        values = {"name": name, "root": str(tmp_path / root), "split": "none", **config}
        out = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        write_pack(SOURCES.parse(values), out)
        return Pack.open(out).manifest.decode_sha256

    plain = decode("eurosat_rgb", "eurosat")
    assert plain == decode("ucmerced", "ucm")
    jpeg = decode("eurosat_rgb", "eurosat", recompress="jpeg75")
    assert jpeg == decode("ucmerced", "ucm", recompress="jpeg75")
    assert len({plain, jpeg, decode("ucmerced", "ucm", size_px=224)}) == 3


def test_jpeg75_changes_pixels_as_pillow_does(tmp_path: Path) -> None:
    import io

    from PIL import Image

    eurosat.write_rgb(tmp_path / "data")
    p = pack(tmp_path, name="eurosat_rgb", root=str(tmp_path / "data"), split="none", recompress="jpeg75")
    buffer = io.BytesIO()
    Image.open(tmp_path / "data" / p.index["path"][0]).save(buffer, "JPEG", quality=75, subsampling=2)
    want = np.moveaxis(np.asarray(Image.open(buffer)), -1, 0)
    np.testing.assert_array_equal(p.read(np.array([0]))[0][0], want)


def test_identical_records_in_two_splits_are_counted(tmp_path: Path) -> None:
    folders.write_images(tmp_path / "data", split_folders=True)
    data = (tmp_path / "data/train/barn/0001.png").read_bytes()
    (tmp_path / "data/test/quay/0003.png").write_bytes(data)
    (tmp_path / "data/train/quay/0003.png").write_bytes(data)
    p = pack(tmp_path, name="imagefolder", root=str(tmp_path / "data"), split="folders")
    assert p.manifest.duplicates_across_splits == 1
    digests = dict(zip(p.ids, p.index["digest"], strict=True))
    assert digests["train/barn/0001"] == digests["test/quay/0003"] == digests["train/quay/0003"]


def test_classes_and_subsets(tmp_path: Path) -> None:
    eurosat.write_rgb(tmp_path / "data")
    splits = eurosat.write_lists(tmp_path / "data")
    base = {"name": "eurosat_rgb", "root": str(tmp_path / "data")}
    p = pack(tmp_path / "a", **base, classes=["SeaLake", "Forest"])
    assert p.classes == ("Forest", "SeaLake")
    assert [p.ids[row] for row in p.rows("val")] == sorted(n for n in splits["val"] if "Annual" not in n)
    assert p.labels[p.rows("val")].tolist() == [0, 1]
    q = pack(tmp_path / "b", **base, max_per_class=2)
    assert np.bincount(q.labels).tolist() == [2, 2, 2] and set(q.ids) < set(eurosat.names())
    assert len(pack(tmp_path / "c", **base, max_patches=7)) == 7
    with pytest.raises(UserError, match=r"no class 'Forrest'.*did you mean 'Forest'"):
        pack(tmp_path / "d", **base, classes=["Forrest"])


def test_unlisted_patches_are_left_out_and_counted(tmp_path: Path) -> None:
    bigearthnet.write_v1(tmp_path / "data", tmp_path / "lists")
    (tmp_path / "lists" / "test.csv.bz2").unlink()
    (tmp_path / "lists" / "test.csv").write_text(bigearthnet.V1_NAMES[4] + "\nS2A_elsewhere\n")
    config = {"name": "bigearthnet_v1", "root": str(tmp_path / "data"), "metadata_dir": str(tmp_path / "lists")}
    with pytest.raises(
        UserError, match="1 of 6 images named by the split lists are not on disk, the first: S2A_elsewhere"
    ):
        pack(tmp_path, **config)
    p = pack(tmp_path, **config, allow_absent=True)
    assert (len(p), p.manifest.absent, p.manifest.unlisted) == (5, 1, 1)
    assert set(p.manifest.split_files) == {"train.csv.bz2", "val.csv.bz2", "test.csv"}


def test_metrics_are_flat_and_repeat(tmp_path: Path) -> None:
    folders.write_npy(tmp_path / "data")
    seen: list[tuple[int, int]] = []
    spec = SOURCES.parse({"name": "npy", "root": str(tmp_path / "data"), "split": "fractions"})
    one = write_pack(spec, tmp_path / "one", lambda done, total, size: seen.append((done, total)))
    assert one == write_pack(spec, tmp_path / "two")
    assert seen[0] == (0, 6) and seen[-1] == (6, 6)
    assert one["n"] == one["n_train"] + one["n_val"] + one["n_test"] == 6
    assert all(isinstance(value, (int, float, str)) for value in one.values())


def test_digest_follows_the_data_and_not_the_folder(tmp_path: Path) -> None:
    def digest(root: Path) -> dict[str, Any]:
        return source_digest(SOURCES.parse({"name": "eurosat_rgb", "root": str(root)}))

    for name in ("a", "b"):
        eurosat.write_rgb(tmp_path / name)
        eurosat.write_lists(tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    json.dumps(digest(tmp_path / "a"))
    eurosat.write_lists(tmp_path / "elsewhere")
    spec = SOURCES.parse(
        {"name": "eurosat_rgb", "root": str(tmp_path / "a"), "splits_dir": str(tmp_path / "elsewhere")}
    )
    assert digest(tmp_path / "a") == source_digest(spec)
    eurosat.write_lists(tmp_path / "b", "spatial")  # not read by split=random
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    (tmp_path / "b" / "eurosat-val.txt").write_text("Forest_1.jpg")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")


def test_no_pack_and_broken_packs_say_what_to_do(tmp_path: Path, v1: Pack) -> None:
    with pytest.raises(MissingInput, match=r"no pack at .*python -m ssl_sat.pack"):
        Pack.open(tmp_path)
    for name in ("manifest.json", "patches.bin"):
        (tmp_path / name).write_bytes((v1.folder / name).read_bytes())
    Pack.open(tmp_path)
    (tmp_path / "patches.bin").write_bytes(b"short")
    with pytest.raises(UserError, match="5 bytes, but 6 records of 160000"):
        Pack.open(tmp_path)
    (tmp_path / "manifest.json").write_text(
        json.dumps(json.loads((v1.folder / "manifest.json").read_text()) | {"x": 1})
    )
    with pytest.raises(UserError, match=r"manifest\.json is not a ssl_sat\.pack/1 file"):
        Pack.open(tmp_path)
    with pytest.raises(UserError, match=r"no split 'calib'.*train \(3\), val \(1\), test \(2\)"):
        v1.rows("calib")
