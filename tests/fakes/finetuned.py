"""Finished finetune artifacts with made-up predictions, for comparing them: real specs, cards and metrics of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_sat.artifact import Artifact, publish, write_json
from ssl_sat.config import compose
from ssl_sat.encoders import ENCODERS
from ssl_sat.evaluation.finetuned import split_metrics
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.finetune import FinetuneSpec
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.model_io import ModelCard, Normalisation, save_model

BANDS = ("B04", "B03", "B02")


def logits_of(hits: float, count: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits of which about the share `hits` is right; the labels are the same for every seed."""
    labels = np.random.default_rng(99).integers(0, classes, count)
    rng = np.random.default_rng(seed)
    right = rng.uniform(size=count) < hits
    said = np.where(right, labels, (labels + 1) % classes)
    return (3 * np.eye(classes)[said] + rng.normal(0, 0.3, (count, classes))).astype(np.float32), labels


def write_run(
    outputs: Path, logits_NK: np.ndarray, labels_N: np.ndarray, overrides: Sequence[str], *, data: str = "d" * 64,
    encoder: str = "cnn", test: bool = True, seconds: float = 10.0, source: str = "eurosat_rgb",
    start: Artifact | None = None,
) -> Artifact:  # fmt: skip
    """Publish `<outputs>/finetune/<encoder>-<fingerprint8>`; the fingerprint follows from overrides and data."""
    spec = compose("finetune", FinetuneSpec, ["init=scratch", f"encoder={encoder}", *overrides])
    classes = tuple(f"class {k}" for k in range(logits_NK.shape[1]))
    found = Predictions(
        features_ND=logits_NK, logits_NK=logits_NK, labels_N=labels_N, rows_N=np.arange(len(labels_N)),
        ids=tuple(f"p{n}" for n in range(len(labels_N))), classes=classes, split="test", dataset=source,
    )  # fmt: skip
    began = "scratch" if start is None else f"{start.config['method']['name']} on somewhere"
    metrics: dict[str, Any] = {"initialisation": began, "gap": 0.01 + 0.001 * spec.seed, "overfitting": False}
    inputs = {"data": data} | ({} if start is None else {"init": start.fingerprint})
    fingerprint = hashlib.sha256(json.dumps([encoder, list(overrides), inputs]).encode()).hexdigest()
    partial = outputs / "finetune" / f"{encoder}-{fingerprint[:8]}.partial"
    partial.mkdir(parents=True)
    if test:
        metrics |= {f"test_{name}": value for name, value in split_metrics(found).items()}
        found.save(partial / "predictions-test")
    _save_model(partial, encoder, classes)
    write_json(partial / "config.json", spec.model_dump(mode="json"), sort=False)
    write_json(partial / "metrics.json", dict(sorted(metrics.items())))
    provenance = {"seconds": seconds, "resumed": False, "speed": {"images_per_second": 100.0}}
    write_json(partial / "provenance.json", {**provenance, "data": {"data": {"source": source}}})
    record = {"stage": "finetune", "fingerprint": fingerprint, "inputs": inputs, "input_paths": {}, "code": {},
              "choices": encoder, "synthetic": False}  # fmt: skip
    return publish(partial, partial.with_name(partial.name.removesuffix(".partial")), record)


def _save_model(folder: Path, encoder: str, classes: tuple[str, ...]) -> None:
    parsed = ENCODERS.parse({"name": encoder})
    card = ModelCard(
        encoder=parsed.model_dump(mode="json"), bands=BANDS, image_size=16, gsd_m=10.0, framing="crop",
        initialisation="scratch", trained_on=["made up"], classes=list(classes),
        head={"kind": "linear", "dropout": 0.0},
        normalisation=Normalisation(
            unit="display", mean=dict.fromkeys(BANDS, 0.5), std=dict.fromkeys(BANDS, 0.2), origin="made up"
        ),
    )  # fmt: skip
    network = ENCODERS.build(parsed, bands=BANDS, image_size=16, seed=0)
    save_model(
        folder, Classifier(network, ClassifierHead(network.embed_dim, len(classes), kind="linear", dropout=0.0)), card
    )
