"""`ssl_sat.load`: logits, features and maps of every stage, and a detector of torchvision on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.models import write_model

import ssl_sat
from ssl_sat.encoders import ENCODERS
from ssl_sat.exporting.loaded import Model
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.spec import ConfigError, MissingInput, UserError
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.model_io import load_card, save_model

BANDS = ("B04", "B03", "B02", "B08")


def encoder_artifact(tmp: Path, encoder: dict[str, Any], px: int = 32) -> Path:
    return write_model(tmp / "outputs", encoder, BANDS, px).path


def classifier_folder(tmp: Path, task: str = "multiclass") -> Path:
    """A folder as finetune leaves one: weights of encoder and head, and their card."""
    start = encoder_artifact(tmp, {"name": "cnn"}, 16)
    card = load_card(start).model_copy(
        update={"classes": ["a", "b", "c"], "head": {"kind": "mlp", "dropout": 0.5}, "task": task}
    )
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn"}), bands=BANDS, image_size=16, seed=1)
    out = tmp / "tuned"
    out.mkdir()
    save_model(out, Classifier(encoder, ClassifierHead(256, 3, kind="mlp", dropout=0.5, seed=3)), card)
    return out


def images(px: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, len(BANDS), px, px, generator=torch.Generator().manual_seed(0))


def test_a_classifier_gives_logits_features_and_probabilities(tmp_path: Path) -> None:
    model = ssl_sat.load(classifier_folder(tmp_path))
    x = images(16)
    with torch.no_grad():
        h = model.features(x)
        assert h.shape == (2, 256) and not model.training  # dropout of .5 would change them
        torch.testing.assert_close(model(x), model.head(h))
        torch.testing.assert_close(model.probabilities(x), model(x).softmax(1))
    assert model.classes == ("a", "b", "c") and model.bands == BANDS and model.image_size == 16
    assert model.stages == ("block1", "block2", "block3")


def test_several_labels_take_the_sigmoid(tmp_path: Path) -> None:
    model = ssl_sat.load(classifier_folder(tmp_path, "multilabel"))
    with torch.no_grad():
        torch.testing.assert_close(model.probabilities(images(16)), model(images(16)).sigmoid())


def test_an_encoder_gives_features_and_names_the_command_that_adds_a_head(tmp_path: Path) -> None:
    model = ssl_sat.load(encoder_artifact(tmp_path, {"name": "cnn"}))
    with torch.no_grad():
        torch.testing.assert_close(model(images(32)), model.features(images(32)))
    assert model.classes == ()
    with pytest.raises(UserError, match=r"ssl_sat\.finetune init="):
        model.probabilities(images(32))


def test_values_are_normalised_by_band(tmp_path: Path) -> None:
    path = encoder_artifact(tmp_path, {"name": "cnn"})
    model, card = ssl_sat.load(path), load_card(path)
    values = images(8).abs()
    mean, std = card.normalisation.of(BANDS)
    expected = (values.double() - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    np.testing.assert_allclose(model.normalise(values), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(N, 4, H, W\) is needed \(B04, B03, B02, B08\)"):
        model.normalise(values[:, :3])


@pytest.mark.parametrize(
    ("encoder", "px", "shapes"),
    [
        ({"name": "cnn"}, 32, {"block1": (64, 16, 16), "block2": (128, 8, 8), "block3": (256, 4, 4)}),
        (
            {"name": "resnet18"}, 64,
            {"stem": (64, 16, 16), "layer1": (64, 16, 16), "layer2": (128, 8, 8), "layer3": (256, 4, 4),
             "layer4": (512, 2, 2)},
        ),
        ({"name": "vit_tiny"}, 32, {"patch_embed": (192, 4, 4), "blocks.0": (192, 4, 4), "norm": (192, 4, 4)}),
        (
            {"name": "timm", "model": "test_efficientnet"}, 64, {"blocks.0": (16, 32, 32)},
        ),
    ],
)  # fmt: skip
def test_maps_of_every_stage(tmp_path: Path, encoder: dict[str, Any], px: int, shapes: dict[str, Any]) -> None:
    model = ssl_sat.load(encoder_artifact(tmp_path, encoder, px))
    extractor = model.get_feature_extractor()
    assert extractor.names == list(model.stages)
    assert {name: extractor.shapes[name] for name in shapes} == shapes
    x = images(px)
    with torch.no_grad():
        maps, means = extractor(x), model.get_feature_extractor(pooled=True)(x)
        for name, value in maps.items():
            assert tuple(value.shape[1:]) == extractor.shapes[name]
            torch.testing.assert_close(means[name], value.mean((2, 3)))
    assert extractor.channels == [extractor.shapes[name][0] for name in extractor.names]
    assert extractor.strides == [px / extractor.shapes[name][1] for name in extractor.names]


def test_the_last_map_of_a_resnet_pools_to_its_features(tmp_path: Path) -> None:
    model = ssl_sat.load(encoder_artifact(tmp_path, {"name": "resnet18"}, 64))
    with torch.no_grad():
        pooled = model.get_feature_extractor(["layer4"], pooled=True)(images(64))["layer4"]
        torch.testing.assert_close(pooled, model.features(images(64)))


def test_tokens_become_maps_in_the_order_of_the_patches(tmp_path: Path) -> None:
    """A patch that changes moves its own token most; the class token is not among them."""
    model = ssl_sat.load(encoder_artifact(tmp_path, {"name": "vit_tiny"}, 32))
    extractor = model.get_feature_extractor(["patch_embed"])
    x = images(32, 1)
    changed = x.clone()
    changed[:, :, 8:16, 24:32] += 1  # row 1, column 3 of the 4 x 4 grid
    with torch.no_grad():
        moved = (extractor(changed)["patch_embed"] - extractor(x)["patch_embed"]).abs().sum(1)[0]
    assert moved.flatten().argmax() == 1 * 4 + 3
    assert (moved > 1e-6).sum() == 1  # before the first attention a token knows its own patch alone


def test_a_swin_in_channels_last_gives_channels_first(tmp_path: Path) -> None:
    encoder = ENCODERS.build(
        ENCODERS.parse({"name": "timm", "model": "swin_tiny_patch4_window7_224"}), bands=BANDS, image_size=56, seed=0
    )
    card = load_card(encoder_artifact(tmp_path, {"name": "cnn"}, 56))
    extractor = Model(encoder, None, card).get_feature_extractor(["layers.0", "layers.1"])
    assert extractor.shapes == {"layers.0": (96, 14, 14), "layers.1": (192, 7, 7)}


def test_an_unknown_stage_lists_the_valid_ones(tmp_path: Path) -> None:
    model = ssl_sat.load(encoder_artifact(tmp_path, {"name": "cnn"}))
    with pytest.raises(ConfigError, match=r"no stage 'layer1' \(there are: block1, block2, block3\)"):
        model.get_feature_extractor(["layer1"])


def test_a_detector_of_torchvision_learns_through_the_maps(tmp_path: Path) -> None:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    model = ssl_sat.load(encoder_artifact(tmp_path, {"name": "resnet18"}, 64))
    backbone = model.get_feature_extractor(["layer2", "layer3", "layer4"]).with_fpn(out_channels=16)
    assert list(backbone(images(64))) == ["0", "1", "2", "pool"]
    mean, std = model.card.normalisation.of(model.bands)
    detector = FasterRCNN(
        backbone, num_classes=2, min_size=64, max_size=64, image_mean=mean, image_std=std,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4),
        box_detections_per_img=5, rpn_pre_nms_top_n_train=50, rpn_post_nms_top_n_train=20,
    )  # fmt: skip
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    torch.manual_seed(0)
    losses = detector.train()([images(64)[0].abs()], [target])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradient = model.encoder.trunk.layer2[0].conv1.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no folder"):
        ssl_sat.load(tmp_path / "nothing")
    with pytest.raises(MissingInput, match="holds no model"):
        ssl_sat.load(tmp_path)
    (tmp_path / "model.json").write_text(
        json.dumps(load_card(encoder_artifact(tmp_path, {"name": "cnn"})).model_dump())
    )
    with pytest.raises(MissingInput, match=r"no model\.safetensors"):
        ssl_sat.load(tmp_path)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, ssl_sat; assert callable(ssl_sat.load); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
