"""SimCLR and its heads: values, shapes, counts."""

import pytest
import torch
from torch import nn

from ssl_sat.bands import S2_RGB
from ssl_sat.encoders import ENCODERS
from ssl_sat.losses.nt_xent import nt_xent, nt_xent_collapse, nt_xent_floor
from ssl_sat.methods import METHODS
from ssl_sat.methods.heads import ClassifierHead, ProjectionHead


def simclr(**values):
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn", "dropout": 0.0}), bands=S2_RGB, image_size=16, seed=0)
    return METHODS.build(METHODS.parse({"name": "simclr", **values}), encoder=encoder, seed=0)


def test_loss_is_nt_xent_of_both_views_in_one_forward():
    method = simclr(temperature=0.2).train()
    calls = []
    method.encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    x = torch.randn(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loss, logs = method.loss(x)
    assert calls == [10]
    z = method.head(method.encoder(x.flatten(0, 1))).view(2, 5, -1)
    torch.testing.assert_close(loss, nt_xent(z, 0.2))
    assert logs["loss_floor"].item() == pytest.approx(nt_xent_floor(5, 0.2))
    assert logs["loss_collapse"].item() == pytest.approx(nt_xent_collapse(5))
    assert logs["loss_floor"] <= loss


def test_equal_views_of_unlike_patches_have_similarity_one_and_spread():
    method = simclr().train()
    x = torch.randn(1, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1, 1)
    _, logs = method.loss(x)
    assert logs["positive_similarity"].item() == pytest.approx(1.0, abs=1e-5)
    assert logs["negative_similarity"] < 0.5 and logs["embedding_std"] > 0.3


def test_collapse_shows_in_the_logs():
    method = simclr(head_batch_norm=False)
    for p in method.head.parameters():
        nn.init.constant_(p, 0.1)
    _, logs = method.loss(torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert logs["embedding_std"] < 1e-3 and logs["negative_similarity"] > 0.999


@pytest.mark.parametrize("hidden, batch_norm, count", [
    (None, False, 256 * 256 + 256 + 256 * 128 + 128),
    (512, False, 256 * 512 + 512 + 512 * 128 + 128),
    (None, True, 256 * 256 + 2 * 256 + 256 * 128 + 2 * 128),
])  # fmt: skip
def test_projection_head_sizes(hidden, batch_norm, count):
    head = ProjectionHead(256, hidden, 128, batch_norm, seed=0)
    assert sum(p.numel() for p in head.parameters()) == count


def test_classifier_heads():
    mlp, linear = ClassifierHead(256, 10, "mlp", 0.1, seed=0), ClassifierHead(256, 10, "linear", 0.0, seed=0)
    kinds = [type(layer).__name__ for layer in mlp.layers]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [layer.out_features for layer in mlp.layers if isinstance(layer, nn.Linear)] == [512, 256, 10]
    assert [type(layer).__name__ for layer in linear.layers] == ["Linear"]
    h = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(linear(h), h @ linear.layers[0].weight.T + linear.layers[0].bias)
    with pytest.raises(ValueError, match="linear"):
        ClassifierHead(8, 2, "deep")  # type: ignore[arg-type]
