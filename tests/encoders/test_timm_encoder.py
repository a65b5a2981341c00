"""Any timm model: stages by structure, overrides, errors, ImageNet weights or a clear refusal."""

import huggingface_hub.constants
import pytest
import timm
import torch

from ssl_sat.bands import AERIAL_RGB, S2_L2A, S2_RGB
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.contract import check_stages
from ssl_sat.encoders.imagenet import load_imagenet, pretrained_name
from ssl_sat.encoders.stem import adapt_stem, stem_keys
from ssl_sat.spec import ConfigError, MissingInput


def make(image_size: int = 32, bands: tuple[str, ...] = S2_RGB, **values):
    return ENCODERS.build(ENCODERS.parse({"name": "timm", **values}), bands=bands, image_size=image_size, seed=0)


@pytest.mark.parametrize("model, first, last, count", [
    ("resnet18", "stem", "layer4", 5),
    ("vit_tiny_patch16_224", "patch_embed", "norm", 14),
    ("convnext_atto", "stem", "head", 6),
    ("efficientnet_b0", "stem", "conv_head", 9),
    ("regnety_002", "stem", "s4", 5),
    ("swin_tiny_patch4_window7_224", "patch_embed", "norm", 6),
])  # fmt: skip
def test_stages_by_structure(model, first, last, count):
    encoder = make(model=model)
    check_stages(encoder)
    names = [name for name, _ in encoder.stages]
    assert (names[0], names[-1], len(names)) == (first, last, count)


def test_the_vits_tokens_are_in_its_first_stage():
    encoder = make(model="vit_tiny_patch16_224")
    held = {id(p) for p in encoder.stages[0][1].parameters()}
    assert {id(encoder.trunk.cls_token), id(encoder.trunk.pos_embed), id(encoder.trunk.patch_embed.proj.weight)} <= held


def test_patch_size_and_image_size_give_the_number_of_tokens():
    assert make(64, model="vit_tiny_patch16_224", patch_size=8).trunk.pos_embed.shape[1] == 64 + 1
    assert make(64, model="vit_tiny_patch16_224").trunk.pos_embed.shape[1] == 16 + 1


def test_cifar_stem_keeps_the_resolution():
    trunk = make(model="resnet18", stem="cifar", bands=S2_L2A).trunk
    assert trunk.conv1.weight.shape == (64, 12, 3, 3)
    x = torch.zeros(1, 12, 32, 32)
    assert trunk.layer1(trunk.maxpool(trunk.conv1(x))).shape[-1] == 32
    with pytest.raises(ConfigError, match="ResNets"):
        make(model="vit_tiny_patch16_224", stem="cifar")


def test_vit_dropout_is_placed_in_the_trunk():
    encoder = make(model="vit_tiny_patch16_224", drop_rate=0.2)
    active = [name for name, m in encoder.named_modules() if isinstance(m, torch.nn.Dropout) and m.p == 0.2]
    assert any("blocks.0" in name for name in active) and not any("head" in name for name in active)


def test_unknown_model_and_override():
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        make(model="resnet_50")
    with pytest.raises(ConfigError, match="patch_size"):
        make(model="resnet18", patch_size=8)


def test_weights_that_cannot_be_had_are_an_error_that_names_them(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    spec = ENCODERS.parse({"name": "resnet18"})
    with pytest.raises(MissingInput, match=r"resnet18\.a1_in1k.*could not be loaded.*HF_HOME"):
        load_imagenet(spec, bands=S2_L2A, image_size=32, seed=0)
    assert pretrained_name(spec) == "resnet18.a1_in1k (timm/resnet18.a1_in1k)"


def test_the_cnn_has_no_imagenet_weights():
    with pytest.raises(ConfigError, match="no ImageNet weights"):
        load_imagenet(ENCODERS.parse({"name": "cnn"}), bands=S2_RGB, image_size=32, seed=0)


def test_imagenet_weights_from_a_file_move_to_twelve_bands(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        source = timm.create_model("resnet18", pretrained=False)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    spec = ENCODERS.parse({"name": "resnet18"})
    kwargs = {"image_size": 32, "seed": 0, "file": tmp_path / "resnet18.pth"}
    rgb = load_imagenet(spec, bands=AERIAL_RGB, **kwargs)
    wide = load_imagenet(spec, bands=S2_L2A, **kwargs)
    assert torch.equal(rgb.trunk.conv1.weight, source.conv1.weight)
    assert torch.equal(wide.trunk.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    expected = adapt_stem(source.conv1.weight.detach(), AERIAL_RGB, S2_L2A, "by_wavelength")
    torch.testing.assert_close(wide.trunk.conv1.weight.detach(), expected)
    assert stem_keys(wide) == ["trunk.conv1.weight"] and wide.bands == S2_L2A
    with pytest.raises(MissingInput, match="no file"):
        load_imagenet(spec, bands=S2_RGB, image_size=32, seed=0, file=tmp_path / "absent.pth")
