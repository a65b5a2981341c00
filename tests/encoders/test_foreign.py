"""Checkpoints of others: names, bands, strictness, and a hostile one whose code does not run."""

import os
import pickle
import socket

import pytest
import timm
import torch
from fakes import checkpoints
from safetensors.torch import save_file
from torchvision.models.vision_transformer import VisionTransformer

from ssl_sat.bands import AERIAL_RGB, S2_L1C, S2_L2A, S2_RGB
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.foreign import load_foreign
from ssl_sat.encoders.imagenet import load_imagenet
from ssl_sat.spec import ConfigError, UserError, WeightsAbsent

RESNET, VIT = ENCODERS.parse({"name": "resnet18"}), ENCODERS.parse({"name": "vit_tiny"})


def images(channels: int, px: int = 32) -> torch.Tensor:
    return torch.randn(2, channels, px, px, generator=torch.Generator().manual_seed(5))


def load(spec, file, bands=S2_L1C, **options):
    encoder, found = load_foreign(spec, file, bands=bands, image_size=32, seed=0, **options)
    return encoder.eval(), found


def same(features: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 1e-3
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_moco_v2_of_ssl4eo_gives_torchvisions_features(tmp_path):
    query = checkpoints.torchvision_resnet18(13)
    checkpoints.moco_v2(tmp_path / "B13_rn18_moco.pth", query, checkpoints.torchvision_resnet18(13, seed=1))
    query.fc = torch.nn.Identity()
    encoder, found = load(RESNET, tmp_path / "B13_rn18_moco.pth")
    same(encoder(images(13)), query(images(13)))
    assert (found.prefix, found.found, found.missing, found.bands) == ("module.encoder_q.", 120, (), S2_L1C)
    assert {"fc.2.bias", "module.queue", "module.encoder_k.conv1.weight"} <= set(found.left_out)
    assert "120 of 120 weights found under 'module.encoder_q.'; 0 missing; 128 left out" in found.line
    without_b10 = images(13)
    without_b10[:, S2_L1C.index("B10")] = 0
    twelve, _ = load(RESNET, tmp_path / "B13_rn18_moco.pth", bands=S2_L2A)
    kept = [S2_L1C.index(name) for name in S2_L2A]
    same(twelve(without_b10[:, kept]), query(without_b10))


@torch.no_grad()
@pytest.mark.parametrize(
    "write, prefix", [(checkpoints.moco_v3, "module.base_encoder."), (checkpoints.dino, "backbone.")]
)
def test_vits_of_moco_v3_and_dino_are_the_trained_ones_not_the_copies(tmp_path, write, prefix):
    wanted = checkpoints.vit(13)
    write(tmp_path / "vit.pth", wanted, checkpoints.vit(13, seed=1))
    encoder, found = load(VIT, tmp_path / "vit.pth")
    wanted.reset_classifier(0)
    same(encoder(images(13)), wanted(images(13)))
    assert found.prefix == prefix and found.found == found.expected == len(wanted.state_dict())


@torch.no_grad()
def test_mae_of_another_image_size_has_its_positions_interpolated(tmp_path):
    wanted = checkpoints.vit(3, px=64)
    checkpoints.mae(tmp_path / "mae.pth", wanted)
    wanted.pos_embed[:, 1:] = torch.arange(192.0)  # one vector at every place: interpolation must give it everywhere
    checkpoints.mae(tmp_path / "flat.pth", wanted)
    encoder, found = load(VIT, tmp_path / "flat.pth", bands=AERIAL_RGB)
    torch.testing.assert_close(
        encoder.trunk.pos_embed[0, 1:], torch.arange(192.0).expand(16, 192), rtol=1e-5, atol=1e-4
    )
    assert torch.equal(encoder.trunk.pos_embed[:, 0], wanted.pos_embed[:, 0])
    assert found.resized == ("pos_embed 65 to 17 tokens",) and "decoder_embed.weight" in found.left_out


@torch.no_grad()
def test_torchvisions_vit_gives_its_features_under_timms_names(tmp_path):
    theirs = checkpoints.moved(VisionTransformer(32, 8, 12, 3, 192, 768), 0)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    encoder, found = load(VIT, tmp_path / "vit.pth", bands=AERIAL_RGB)
    theirs.heads = torch.nn.Identity()
    same(encoder(images(3)), theirs(images(3)))
    assert found.left_out == ("heads.head.weight", "heads.head.bias") and found.bands == AERIAL_RGB


@torch.no_grad()
def test_torchgeos_are_timms_names_and_lightnings_have_a_prefix(tmp_path):
    theirs = checkpoints.moved(timm.create_model("resnet18", in_chans=13, num_classes=0), 3)
    save_file(theirs.state_dict(), tmp_path / "resnet18_sentinel2_all_moco.safetensors")
    lightning = {"state_dict": checkpoints.under("backbone.", theirs.state_dict()), "hyper_parameters": {"lr": 0.1}}
    lightning["state_dict"]["projection_head.0.weight"] = torch.ones(3, 3)
    torch.save(lightning, tmp_path / "last.ckpt")
    for name in ("resnet18_sentinel2_all_moco.safetensors", "last.ckpt"):
        encoder, found = load(RESNET, tmp_path / name)
        same(encoder(images(13)), theirs(images(13)))
    assert found.left_out == ("projection_head.0.weight",)


def test_the_cnn_too_and_bands_that_have_to_be_stated(tmp_path):
    cnn = ENCODERS.parse({"name": "cnn"})
    theirs = ENCODERS.build(cnn, bands=S2_L2A, image_size=32, seed=7)
    save_file(theirs.state_dict(), tmp_path / "cnn.safetensors")
    with pytest.raises(ConfigError, match=r"read 12 channels; say which, as in init_bands=\[B01,B02"):
        load(cnn, tmp_path / "cnn.safetensors")
    with pytest.raises(ConfigError, match="12 channels; init_bands names 3"):
        load(cnn, tmp_path / "cnn.safetensors", bands_from=S2_RGB)
    with pytest.raises(ConfigError, match="no band 'B1'"):
        load(cnn, tmp_path / "cnn.safetensors", bands_from=("B1",) * 12)
    encoder, _ = load(cnn, tmp_path / "cnn.safetensors", bands=S2_RGB, bands_from=S2_L2A)
    expected = theirs.blocks[0][0].weight[:, [3, 2, 1]]
    assert torch.equal(encoder.blocks[0][0].weight, expected)


def test_what_does_not_fit_is_refused_and_only_missing_weights_may_be_waived(tmp_path):
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    torch.save(timm.create_model("resnet34", num_classes=0).state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(
        ConfigError, match=r"not the weights of encoder 'resnet18': 0 of its .* 96 are not its own \(lay"
    ):
        load(RESNET, tmp_path / "deeper.pth")
    torch.save({**state, "layer1.0.conv1.weight": torch.ones(3, 64, 3, 3)}, tmp_path / "shape.pth")
    with pytest.raises(ConfigError, match=r"layer1\.0\.conv1\.weight \[3, 64, 3, 3\] instead of \[64, 64, 3, 3\]"):
        load(RESNET, tmp_path / "shape.pth", bands=AERIAL_RGB, strict=False)
    torch.save({k: v for k, v in state.items() if k != "layer4.1.conv2.weight"}, tmp_path / "hole.pth")
    with pytest.raises(ConfigError, match=r"1 of its 120 are missing \(layer4\.1\.conv2\.weight\)"):
        load(RESNET, tmp_path / "hole.pth")
    encoder, found = load(RESNET, tmp_path / "hole.pth", bands=AERIAL_RGB, strict=False)
    fresh = ENCODERS.build(RESNET, bands=AERIAL_RGB, image_size=32, seed=0)
    assert found.missing == ("layer4.1.conv2.weight",) and "1 missing" in found.line
    assert torch.equal(encoder.trunk.layer4[1].conv2.weight, fresh.trunk.layer4[1].conv2.weight)
    assert torch.equal(encoder.trunk.conv1.weight, state["conv1.weight"])
    with pytest.raises(ConfigError, match="not the weights of encoder 'vit_tiny_patch16_224'"):
        load(VIT, tmp_path / "deeper.pth", strict=False)


def test_files_that_are_absent_damaged_or_hold_nothing(tmp_path):
    with pytest.raises(WeightsAbsent, match="no file") as caught:
        load(RESNET, tmp_path / "absent.pth")
    assert caught.value.row == "not run: weights absent"
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({"conv1.weight": torch.full((2, 2), float("nan"))}, tmp_path / "nan.pth")
    found = {"cut.pth": "no readable checkpoint", "cut.safetensors": "no readable safetensors"}
    for name, what in {
        **found,
        "empty.pth": r"no weights by name \(it holds: epoch\)",
        "nan.pth": "not finite",
    }.items():
        with pytest.raises(UserError, match=what):
            load(RESNET, tmp_path / name)


class Hostile:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_hostile_checkpoint_is_refused_and_its_code_does_not_run(tmp_path, form):
    marker, file = tmp_path / "it ran", tmp_path / "weights.pth"
    held = {"state_dict": {"conv1.weight": torch.ones(64, 13, 7, 7)}, "callbacks": Hostile(str(marker))}
    if form == "bare pickle":
        file.write_bytes(pickle.dumps(held["callbacks"], protocol=2))
    else:
        torch.save(held, file, _use_new_zipfile_serialization=form == "zip")
    for attempt in (
        lambda: load(RESNET, file),
        lambda: load_imagenet(RESNET, bands=S2_RGB, image_size=32, seed=0, file=file),
    ):
        with pytest.raises(UserError, match=r"was refused: its pickle names .*mkdir.*Nothing of it was run"):
            attempt()
    assert not marker.exists()
    (pickle.load if form == "bare pickle" else lambda opened: torch.load(opened, weights_only=False))(file.open("rb"))
    assert marker.exists()


def test_imagenet_weights_come_from_the_cache_and_a_hostile_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    (folder / "snapshots" / "00").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("00")
    source = checkpoints.moved(timm.create_model("resnet18"), 2)
    save_file(source.state_dict(), folder / "snapshots" / "00" / "model.safetensors")
    encoder = load_imagenet(RESNET, bands=AERIAL_RGB, image_size=32, seed=0)
    assert torch.equal(encoder.trunk.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    (folder / "snapshots" / "00" / "model.safetensors").unlink()
    torch.save({"x": Hostile(str(tmp_path / "ran"))}, folder / "snapshots" / "00" / "pytorch_model.bin")
    with pytest.raises(UserError, match="was refused"):
        load_imagenet(RESNET, bands=AERIAL_RGB, image_size=32, seed=0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("answers", ["nothing listens", "silence"])
def test_without_a_network_one_error_names_file_and_cache(tmp_path, monkeypatch, answers):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers == "silence":
            server.listen()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("ssl_sat.encoders.imagenet._PATIENCE_S", 0.3)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(WeightsAbsent, match=r"resnet18\.a1_in1k .*model\.safetensors is not in") as caught:
            load_imagenet(RESNET, bands=S2_L2A, image_size=32, seed=0)
    assert str(tmp_path) in str(caught.value) and "weights=<file>" in str(caught.value)
