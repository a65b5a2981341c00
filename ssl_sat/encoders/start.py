"""Where a stage's encoder comes from: its science, its name, what may not be asked for at once. Torch-free."""

from __future__ import annotations

from typing import Any

from ssl_sat.artifact import Ref
from ssl_sat.encoders import ENCODERS, weights
from ssl_sat.spec import ConfigError


def science(spec: Any) -> dict[str, Any]:
    """The spec's science; what it starts from by fingerprint or sha256, not by path."""
    return weights.science(spec, spec.science())


def refuse_conflict(spec: Any, start: Ref) -> None:
    """An artifact brings its own encoder; another one asked for beside it is a mistake, not a wish."""
    held = ENCODERS.parse(start.config["encoder"])
    if spec.encoder is not None and spec.encoder != held:
        raise ConfigError(
            f"encoder={encoder_label(spec.encoder)} conflicts with init={start.path}, which holds "
            f"{encoder_label(held)} ({held.model_dump()}). Ask for that one, or choose init=scratch."
        )


def encoder_label(spec: Any) -> str:
    """The encoder's name in an artifact's: the registry's, or timm's for a model chosen by timm's name."""
    return spec.model.replace("/", "_") if spec.name == "timm" else spec.name
