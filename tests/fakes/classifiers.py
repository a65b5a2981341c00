"""Folders of small pictures whose classes differ by colour, packs of them, and classifiers with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes.checkpoints import moved
from PIL import Image

from ssl_sat.artifact import Artifact, publish
from ssl_sat.data.spec import ImageFolderSpec
from ssl_sat.pack import PACK, PackSpec
from ssl_sat.stage import execute
from ssl_sat.training.model_io import ModelCard, Normalisation, build_classifier, save_model

COLOURS = {"field": (150, 160, 60), "lake": (30, 60, 120), "roof": (170, 90, 80), "snow": (235, 238, 242)}
PX = 16


def write_pictures(root: Path, classes: tuple[str, ...], count: int, seed: int = 0) -> None:
    """`<root>/<class>/NNN.png`: the colour of the class with noise of its own."""
    for cls in classes:
        (root / cls).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([seed, number, *cls.encode()])
            colour = np.array(COLOURS[cls]) + rng.normal(0, 12, 3)
            pixels = np.clip(colour + rng.normal(0, 10, (PX, PX, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / cls / f"{number:03d}.png")


def folder_spec(root: Path, **values: Any) -> ImageFolderSpec:
    """Splits of 60, 20 and 20 %."""
    given = {"split": "fractions", "val_fraction": 0.2, "test_fraction": 0.2, "size_px": PX, **values}
    return ImageFolderSpec(root=str(root), labels="folder", **given)


def write_pack(outputs: Path, root: Path, **values: Any) -> Artifact:
    return execute(PACK, PackSpec(data=folder_spec(root, **values), outputs=str(outputs), progress=False, workers=1))


def write_classifier(
    outputs: Path, pack: Artifact, classes: tuple[str, ...], name: str = "cnn", dropout: float = 0.2, **config: Any
) -> Artifact:
    """Publish `<outputs>/finetune/<name>`: random weights, an MLP head, the statistics made up; `pack` is its data."""
    bands = ("red", "green", "blue")
    card = ModelCard(
        encoder={"name": "cnn"}, bands=bands, image_size=PX, gsd_m=None, framing="resize", initialisation="scratch",
        trained_on=["made up"], classes=list(classes), head={"kind": "mlp", "dropout": dropout},
        normalisation=Normalisation(unit="display", mean=dict.fromkeys(bands, 0.45), std=dict.fromkeys(bands, 0.25),
                                    origin="made up"),
    )  # fmt: skip
    torch.manual_seed(0)
    partial = outputs / "finetune" / f"{name}.partial"
    partial.mkdir(parents=True)
    save_model(partial, moved(build_classifier(card), 4), card)
    values = {"outputs": str(outputs), "held_out": [], "subset": None, **config}
    (partial / "config.json").write_text(json.dumps(values))
    for file in ("metrics.json", "provenance.json"):
        (partial / file).write_text("{}")
    fingerprint, data = f"{sum(name.encode()):08x}" * 8, {"data": f"pack/{pack.path.name}"}
    record = {"stage": "finetune", "fingerprint": fingerprint, "choices": name, "code": {}, "synthetic": False,
              "inputs": {"data": pack.fingerprint}, "input_paths": data}  # fmt: skip
    return publish(partial, partial.with_name(f"{name}-{fingerprint[:8]}"), record)
