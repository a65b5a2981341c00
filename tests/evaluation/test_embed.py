"""Features of folders and packs: the right numbers beside the right ids, unreadable files listed and not replaced."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fakes.folders import write_images
from fakes.models import write_model
from PIL import Image

from ssl_sat.bands import AERIAL_RGB, S2_L2A
from ssl_sat.data.spec import ImageFolderSpec
from ssl_sat.embed import EMBED, EmbedSpec, task
from ssl_sat.evaluation import embedding
from ssl_sat.pack import PACK, PackSpec
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.stage import execute
from ssl_sat.training.model_io import load_encoder

RGB = ImageFolderSpec(labels="folder", split="none")


def spec(outputs: Path, model: Path, **values) -> EmbedSpec:
    return EmbedSpec.parse(
        {"data": RGB, "device": "cpu", "progress": False, "outputs": str(outputs), "model": str(model), **values}
    )


def table_of(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


@pytest.fixture
def model(outputs: Path) -> Path:
    return write_model(outputs, {"name": "cnn"}, AERIAL_RGB, px=16, unit="display", framing="resize").path


@torch.no_grad()
def test_any_folder_of_images_in_one_go(outputs: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "ROW_GROUP", 3)
    write_images(Path("pictures"))
    Image.new("RGB", (31, 50), (200, 30, 90)).save("pictures/of another size.png")
    broken = Path("pictures/quay/0002.JPG")
    broken.write_bytes(broken.read_bytes()[:700])
    Path("pictures/barn/text.png").write_text("no image")
    task(spec(outputs, model, images="pictures", to="out/features.npy", batch_size=2))
    artifact = execute(EMBED, spec(outputs, model, images="pictures", batch_size=5))  # batches are no science
    assert artifact.metrics == {"dim": 256, "n": 8, "unreadable": 2}
    table = pq.read_table(artifact.path / "features.parquet")
    encoder, card = load_encoder(model)
    mean, std = (torch.tensor(v)[:, None, None] for v in card.normalisation.of(AERIAL_RGB))
    for row in table.to_pylist():
        image = Image.open(Path("pictures") / row["path"]).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        expected = encoder.eval()(((x - mean) / std)[None])[0]
        torch.testing.assert_close(torch.tensor(row["features"]), expected, rtol=1e-4, atol=1e-5)
        assert row["label"] is None and row["split"] == "all" and row["path"].startswith(row["id"])
    assert table.schema.field("features").type.list_size == 256
    found = np.load("out/features.npy")
    assert found.dtype == np.float32 and np.array_equal(found, np.array(table["features"].to_pylist(), np.float32))
    rows = table_of("out/features.ids.csv")
    assert [r["id"] for r in rows] == table["id"].to_pylist() and rows[7]["row"] == "7"
    bad = {r["path"]: r["reason"] for r in table_of("out/features.unreadable.csv")}
    assert "truncated" in bad["quay/0002.JPG"] and "cannot identify" in bad["barn/text.png"] and "0x" not in str(bad)


def test_raw_files_and_their_pack_give_the_same(outputs: Path, model: Path) -> None:
    write_images(Path("pictures"), split_folders=True)
    folder = {**RGB.model_dump(), "root": "pictures", "split": "folders"}
    raw = execute(EMBED, spec(outputs, model, data=folder, to="raw.parquet"))
    pack = execute(PACK, PackSpec(data=folder, outputs=str(outputs), progress=False))
    packed = execute(EMBED, spec(outputs, model, pack=str(pack.path)))
    tables = [pq.read_table(a.path / "features.parquet") for a in (raw, packed)]
    assert tables[0].drop(["features"]).equals(tables[1].drop(["features"]))
    assert tables[0]["label"].to_pylist()[:5] == ["barn"] * 4 + ["quay"] and tables[0].num_rows == 24
    features = [np.array(t["features"].to_pylist()) for t in tables]
    np.testing.assert_allclose(features[0], features[1], rtol=1e-5, atol=1e-6)
    test = execute(EMBED, spec(outputs, model, pack=str(pack.path), split="test"))
    assert set(pq.read_table(test.path / "features.parquet")["split"].to_pylist()) == {"test"}
    task(spec(outputs, model, pack=str(pack.path), to="packed.parquet"))
    assert Path("packed.parquet").read_bytes() == (packed.path / "features.parquet").read_bytes()
    Image.new("RGB", (80, 80)).save("pictures/test/barn/new.png")
    assert execute(EMBED, spec(outputs, model, data=folder)).fingerprint != raw.fingerprint


def test_mistakes_are_told(outputs: Path, model: Path) -> None:
    Path("empty").mkdir()
    Path("bad").mkdir()
    Path("bad/a.png").write_text("no image")
    with pytest.raises(UserError, match="no patches in 'empty'"):
        execute(EMBED, spec(outputs, model, images="empty"))
    with pytest.raises(UserError, match=r"not one of 1 patches can be read\. The first: a\.png"):
        execute(EMBED, spec(outputs, model, images="bad"))
    with pytest.raises(ConfigError, match=r"\.npy or \.parquet"):
        spec(outputs, model, images="bad", to="features.csv")
    reflectance = write_model(outputs / "other", {"name": "cnn"}, S2_L2A[1:4], px=16).path
    Image.new("RGB", (20, 20)).save("bad/b.png")
    with pytest.raises(UserError, match="trained on reflectance values, bad holds display values"):
        execute(EMBED, spec(outputs, reflectance, images="bad"))
