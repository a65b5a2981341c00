"""Starts from weights of others: what enters the fingerprint, how bands are normalised, what the card says."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from fakes import checkpoints
from safetensors.torch import save_file

from ssl_sat.bands import AERIAL_RGB, S2_L1C, S2_L2A
from ssl_sat.encoders import ENCODERS, weights
from ssl_sat.spec import ConfigError, WeightsAbsent
from ssl_sat.training.imported import imported_encoder
from ssl_sat.training.model_io import ModelCard, Normalisation


def asked(init: str, **values) -> SimpleNamespace:
    default = {
        "weights": None,
        "init_bands": None,
        "init_units": None,
        "init_strict": True,
        "seed": 0,
        "stem": "by_name",
    }
    return SimpleNamespace(**{**default, "encoder": ENCODERS.parse({"name": "resnet18"}), "init": init, **values})


def own_card(bands: tuple[str, ...], unit: str) -> ModelCard:
    stats = Normalisation(unit=unit, mean=dict.fromkeys(bands, 0.2), std=dict.fromkeys(bands, 0.1), origin="the data's")
    return ModelCard(encoder={"name": "resnet18"}, bands=bands, image_size=32, gsd_m=None, framing="crop",
                     normalisation=stats, initialisation="x", trained_on=[])  # fmt: skip


def test_a_files_contents_are_science_and_its_path_is_not(tmp_path: Path) -> None:
    a, b = tmp_path / "a.pth", tmp_path / "elsewhere.pth"
    a.write_bytes(b"weights")
    b.write_bytes(b"weights")
    own = {"init": "?", "init_bands": None, "init_units": None, "seed": 0}
    first, second = (weights.science(asked(str(path)), {**own, "init": str(path)}) for path in (a, b))
    assert (
        first == second
        and str(tmp_path) not in str(first)
        and weights.label(asked(str(a))) == f"weights_{hashlib.sha256(b'weights').hexdigest()[:8]}"
    )
    b.write_bytes(b"Weights")
    assert weights.science(asked(str(b)), {**own, "init": str(b)}) != first
    assert weights.science(asked(str(a), init_bands=("B04",)), own) != first
    assert weights.science(asked("imagenet", weights=str(a)), own) != first
    assert weights.science(asked("scratch"), {**own, "init": "scratch"}) == {"init": "scratch", "seed": 0}
    assert weights.science(asked("outputs/pretrain/x"), own) == {
        "init": "artifact",
        "seed": 0,
    }  # as before files could be
    with pytest.raises(WeightsAbsent, match="weights absent: no file"):
        weights.science(asked(str(tmp_path / "gone.safetensors")), own)
    with pytest.raises(ConfigError, match="goes with init=imagenet"):
        weights.file_of(asked("scratch", weights=str(a)))


@pytest.mark.parametrize("bands, unit, units, expected", [
    (S2_L1C, "reflectance", None, (0.0, 1.0)),  # SSL4EO-S12 was fed dn / 10000
    (S2_L2A, "reflectance", None, (0.0, 1.0)),
    (S2_L1C, "reflectance", "standardised", (0.2, 0.1)),
    (AERIAL_RGB, "display", None, (0.2, 0.1)),  # another unit: the data's own statistics
])  # fmt: skip
def test_ssl4eo_keeps_raw_reflectance_where_the_data_is_reflectance(tmp_path, capsys, bands, unit, units, expected):
    checkpoints.moco_v2(
        tmp_path / "moco.pth", checkpoints.torchvision_resnet18(13), checkpoints.torchvision_resnet18(13, 1)
    )
    encoder, card = imported_encoder(asked(str(tmp_path / "moco.pth"), init_units=units), own_card(bands, unit))
    mean, std = card.normalisation.of(bands)
    assert set(mean) == {expected[0]} and set(std) == {expected[1]} and encoder.bands == bands
    assert card.weights["sha256"] == weights.digest(tmp_path / "moco.pth") and card.weights["bands"] == list(S2_L1C)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "120 of 120 weights found under 'module.encoder_q.'" in line
    assert str(tmp_path) not in card.model_dump_json() and "moco.pth (sha256" in card.initialisation


def test_imagenet_from_a_file_in_either_normalisation(tmp_path: Path) -> None:
    source = checkpoints.moved(timm.create_model("resnet18"), 1)
    save_file(source.state_dict(), tmp_path / "r18.safetensors")
    for units, red in ((None, 0.2), ("imagenet", 0.485)):
        spec = asked("imagenet", weights=str(tmp_path / "r18.safetensors"), init_units=units)
        encoder, card = imported_encoder(spec, own_card(AERIAL_RGB, "display"))
        assert card.normalisation.mean["red"] == red
        assert torch.equal(encoder.trunk.conv1.weight, source.conv1.weight)
    with pytest.raises(ConfigError, match="no ImageNet weights"):
        imported_encoder(
            asked("imagenet", weights="x.pth", encoder=ENCODERS.parse({"name": "cnn"})), own_card(AERIAL_RGB, "display")
        )
