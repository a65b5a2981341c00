"""Dropout and drop-path of an encoder that comes with its own: they have no weights, so that they can be set anew."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_sat.encoders import ENCODERS
from ssl_sat.spec import ConfigError
from ssl_sat.training.model_io import ModelCard, build_encoder


def regularised(encoder: nn.Module, card: ModelCard, spec: Any) -> tuple[nn.Module, ModelCard]:
    """Return the encoder with `spec.encoder_dropout` and `spec.drop_path` in the place of its own, where they are set.

    Raises ConfigError for an encoder that has no such thing.
    """
    own = ENCODERS.parse(card.encoder)
    fields = type(own).model_fields
    wanted = {("dropout" if "dropout" in fields else "drop_rate"): spec.encoder_dropout, "drop_path": spec.drop_path}
    changes = {name: value for name, value in wanted.items() if value is not None}
    unknown = [name for name in changes if name not in fields]
    if unknown:
        asked = "drop_path" if "drop_path" in unknown else "encoder_dropout"
        raise ConfigError(f"{asked}: the encoder '{own.name}' has no {unknown[0].replace('_', '-')}; leave it out")
    if all(getattr(own, name) == value for name, value in changes.items()):
        return encoder, card
    new = card.model_copy(update={"encoder": {**card.encoder, **changes}})
    fresh = build_encoder(new, spec.seed)
    fresh.load_state_dict(encoder.state_dict())
    return fresh, new
