"""Exported encoders: the same features in timm, ONNX Runtime and torch.export, loaded here without our code."""

import json
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
from fakes.models import write_model
from safetensors.torch import load_file

from ssl_sat.bands import S2_L2A, S2_RGB
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.foreign import load_foreign
from ssl_sat.export import ExportSpec, run
from ssl_sat.exporting import folder, formats
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.training.model_io import load_encoder

RELATIVE = 1e-5


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape and expected.std() > 1e-3
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= RELATIVE


@torch.no_grad()
@pytest.mark.parametrize(
    "name, takes, scale", [("resnet18", "dn", 10_000), ("vit_tiny", "value", 1), ("cnn", "normalised", 0)]
)
def test_features_are_the_encoders_in_every_format(outputs: Path, name: str, takes: str, scale: int) -> None:
    model = write_model(outputs, {"name": name}, S2_L2A)
    run(ExportSpec(model=str(model.path), to="taken away", takes=takes, outputs=str(outputs)))
    to, card = Path("taken away"), json.loads(Path("taken away/card.json").read_text())
    encoder, own = load_encoder(model.path)
    images = torch.rand(5, 12, 32, 32, generator=torch.Generator().manual_seed(9)) * 0.5
    mean, std = (
        torch.tensor([card["normalisation"][key][b] for b in card["bands"]])[:, None, None] for key in ("mean", "std")
    )
    given = images if takes == "normalised" else (images * scale).round()
    read = images if takes == "normalised" else (given / scale - mean) / std
    expected = encoder.eval()(read)
    session = onnxruntime.InferenceSession(str(to / "model.onnx"), providers=["CPUExecutionProvider"])
    close(torch.from_numpy(session.run(None, {"images": given.numpy()})[0]), expected)
    close(torch.export.load(to / "model.pt2").module()(given), expected)
    if name != "cnn":
        theirs = timm.create_model(**card["timm"]).eval()
        theirs.load_state_dict(load_file(to / "timm.safetensors"), strict=True)
        close(theirs(read), expected)
        assert card["timm"]["in_chans"] == 12
    again, card_again = load_encoder(to)
    close(again.eval()(read), expected)
    assert card_again.bands == own.bands and (card["timm"] is None) == (name == "cnn")
    assert all(file["relative_difference"] <= RELATIVE for file in card["files"].values())
    page = (to / "README.md").read_text()
    assert "| 3 | B04 | 0.16 | 0.08 |" in page and "None is stated" in page and card["fingerprint"] in page


def test_an_export_comes_back_with_its_bands(outputs: Path) -> None:
    model = write_model(outputs, {"name": "cnn"}, S2_RGB)
    run(ExportSpec(model=str(model.path), to="x", formats=["safetensors"], outputs=str(outputs)))
    encoder, found = load_foreign(
        ENCODERS.parse({"name": "cnn"}), Path("x/model.safetensors"), bands=S2_L2A, image_size=32, seed=0
    )
    assert found.bands == S2_RGB and found.card["normalisation"]["mean"]["B03"] == pytest.approx(0.12)
    assert torch.equal(
        encoder.blocks[0][0].weight[:, S2_L2A.index("B03")], load_encoder(model.path)[0].blocks[0][0].weight[:, 1]
    )


def test_what_cannot_be_is_said_and_leaves_nothing(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(write_model(outputs, {"name": "cnn"}, S2_RGB).path)
    with pytest.raises(ConfigError, match="timm has no encoder 'cnn'"):
        run(ExportSpec(model=model, to="a", formats=["timm"], outputs=str(outputs)))
    other = str(write_model(outputs, {"name": "resnet18", "stem": "cifar"}, S2_RGB).path)
    with pytest.raises(ConfigError, match="cifar"):
        run(ExportSpec(model=other, to="a", formats=["timm"], outputs=str(outputs)))

    def rounded(job: formats.Job, to: Path) -> formats.Written:
        written = formats.write_safetensors(job, to)
        return written._replace(run=lambda x: written.run(x) * (1 + 1e-4))

    monkeypatch.setitem(folder.WRITERS, "safetensors", rounded)
    with pytest.raises(UserError, match="gives other features"):
        run(ExportSpec(model=model, to="a", formats=["safetensors"], outputs=str(outputs)))
    assert not list(Path.cwd().glob("*a*.partial")) and not Path("a").exists()
    Path("a").mkdir()
    with pytest.raises(UserError, match="nothing is overwritten"):
        run(ExportSpec(model=model, to="a", outputs=str(outputs)))
