"""What trains in a phase, and that frozen parts do not move."""

import numpy as np
import pytest
import torch

from ssl_sat.encoders import ENCODERS
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.training.classifier import Classifier, set_trainable, train_mode

BANDS = ("B04", "B03", "B02")


def classifier(name: str) -> Classifier:
    encoder = ENCODERS.build(ENCODERS.parse({"name": name}), bands=BANDS, image_size=32, seed=0)
    return Classifier(encoder, ClassifierHead(encoder.embed_dim, 4))


@pytest.mark.parametrize("name", ["cnn", "resnet18", "vit_tiny"])
@pytest.mark.parametrize("train", ["head", "last_stage", "all"])
def test_a_step_moves_what_trains_and_nothing_else(name, train):
    model = classifier(name)
    trainable = set_trainable(model, train)
    train_mode(model, train)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    moving = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # residual branches start at zero, so that their insides move from the second step on
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), torch.arange(6) % 4).backward()
        optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    frozen_buffers = {key for key in changed if key not in moving and key not in dict(model.named_parameters())}
    assert moving <= changed
    if train == "head":
        assert changed == moving  # no batch norm of the trunk has moved
    last = {"cnn": "encoder.blocks.2", "resnet18": "encoder.trunk.layer4", "vit_tiny": "encoder.trunk.blocks.11"}[name]
    if train == "last_stage":
        assert all(key.startswith(last) for key in frozen_buffers)
        assert any(key.startswith(last) for key in moving)
        closing = ("encoder.trunk.norm.", "head.")  # a ViT's last norm belongs to its last stage
        assert all(key.startswith((last, *closing)) for key in moving)


def test_counts_of_the_study_cnn():
    model = classifier("cnn")
    head = 256 * 512 + 512 + 512 * 256 + 256 + 256 * 4 + 4
    assert set_trainable(model, "all") == 1_147_200 + head
    assert set_trainable(model, "head") == head
    block3 = (128 * 256 * 9 + 256) + (256 * 256 * 9 + 256) + 4 * 256
    assert set_trainable(model, "last_stage") == block3 + head


def test_trunk_and_head_apart_are_the_whole():
    model = classifier("resnet18").eval()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_array_equal(model.head(model.features(x)).numpy(), model(x).numpy())
