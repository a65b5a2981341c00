"""Finished pretrain artifacts around encoders with random weights and statistics that differ from band to band."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fakes.checkpoints import moved

from ssl_sat.artifact import Artifact, publish
from ssl_sat.encoders import ENCODERS
from ssl_sat.training.model_io import ModelCard, Normalisation, save_model


def write_model(
    outputs: Path, encoder: dict[str, Any], bands: tuple[str, ...], px: int = 32, **values: Any
) -> Artifact:
    """Publish `<outputs>/pretrain/<name>-0123abcd`; unit and framing as given, else reflectance and crop."""
    spec = ENCODERS.parse(encoder)
    mean = {name: 0.1 + 0.02 * k for k, name in enumerate(bands)}
    std = {name: 0.05 + 0.01 * k for k, name in enumerate(bands)}
    card = ModelCard(
        encoder=spec.model_dump(mode="json"), bands=bands, image_size=px, gsd_m=10.0,
        framing=values.get("framing", "crop"), initialisation="scratch", trained_on=["made up"],
        normalisation=Normalisation(unit=values.get("unit", "reflectance"), mean=mean, std=std, origin="made up"),
    )  # fmt: skip
    partial = outputs / "pretrain" / f"{spec.name}.partial"
    partial.mkdir(parents=True)
    save_model(partial, moved(ENCODERS.build(spec, bands=bands, image_size=px, seed=0), 4), card)
    (partial / "config.json").write_text(json.dumps({"method": {"name": "simclr"}, "encoder": card.encoder}))
    for name in ("metrics.json", "provenance.json"):
        (partial / name).write_text("{}")
    record = {"stage": "pretrain", "fingerprint": "0123abcd" * 8, "inputs": {}, "choices": spec.name, "code": {},
              "synthetic": False}  # fmt: skip
    return publish(partial, partial.with_name(f"{spec.name}-0123abcd"), record)
