"""Dropout and drop-path set anew on an encoder that has weights already."""

import pytest
import torch
from fakes.tuning import QUICK
from timm.layers import DropPath

from ssl_sat.config import compose
from ssl_sat.encoders import ENCODERS
from ssl_sat.finetune import FinetuneSpec
from ssl_sat.spec import ConfigError
from ssl_sat.training.model_io import ModelCard, Normalisation
from ssl_sat.training.regularisation import regularised

ONES = {"B04": 1.0}


def started(name: str):
    encoder = ENCODERS.build(ENCODERS.parse({"name": name}), bands=("B04",), image_size=32, seed=0)
    norm = Normalisation(unit="display", mean=ONES, std=ONES, origin="test")
    card = ModelCard(
        encoder={"name": name}, bands=("B04",), image_size=32, gsd_m=None, framing="crop", normalisation=norm,
        initialisation="scratch", trained_on=[],
    )  # fmt: skip
    return encoder, card


def spec(*overrides: str) -> FinetuneSpec:
    return compose("finetune", FinetuneSpec, [*QUICK, *overrides])


def test_drop_path_is_set_and_no_weight_changes():
    encoder, card = started("vit_tiny")
    assert regularised(encoder, card, spec()) == (encoder, card)
    fresh, new = regularised(encoder, card, spec("drop_path=0.2", "encoder_dropout=0.1"))
    rates = [module.drop_prob for module in fresh.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(0.2) and len(rates) >= 20
    assert new.encoder["drop_path"] == 0.2 and new.encoder["drop_rate"] == 0.1
    before, after = encoder.state_dict(), fresh.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_cnn_has_dropout_and_no_drop_path():
    encoder, card = started("cnn")
    fresh, _ = regularised(encoder, card, spec("encoder_dropout=0.4"))
    assert {module.p for module in fresh.modules() if isinstance(module, torch.nn.Dropout2d)} == {0.4}
    with pytest.raises(ConfigError, match="drop_path: the encoder 'cnn' has no drop-path"):
        regularised(encoder, card, spec("drop_path=0.1"))
