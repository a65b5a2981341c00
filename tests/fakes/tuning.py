"""A small labelled pack, and the phases of fine-tunings of it in this process, on pictures of a few pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssl_sat.augment.views import Views
from ssl_sat.config import check_overrides, compose, compose_raw
from ssl_sat.data.packed import Pack
from ssl_sat.finetune import FinetuneSpec
from ssl_sat.pack import PACK, PackSpec
from ssl_sat.stage import execute
from ssl_sat.training import engine, model_io, phases, setup
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.regularisation import regularised
from ssl_sat.training.task import Task

QUICK = (
    "data=imagefolder", "init=scratch", "encoder=cnn", "image_size=16", "batch_size=8", "trainer.threads=1",
    "trainer.accelerator=cpu", "trainer.tensorboard=false", "trainer.progress=false", "trainer.log_every_n_steps=1",
    "optim.warmup_epochs=0",
)  # fmt: skip


def make_pack(root: Path, sizes: tuple[int, ...] = (20, 20), val: float = 0.2) -> Path:
    """Pack pictures of classes that hardly differ (networks overfit), `sizes[k]` of class k; return the folder."""
    generator = np.random.default_rng(0)
    for label, count in enumerate(sizes):
        folder = root / "raw" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(50, 150 + 8 * label, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}_{number}.png")
    splits = [f"data.val_fraction={val}", "data.test_fraction=0.2"]
    data = ["data=imagefolder", f"data.root={root}/raw", "data.size_px=null", "data.split=fractions", *splits]
    return execute(PACK, compose("pack", PackSpec, [*data, f"outputs={root}"])).path


@dataclass
class Tuned:
    """What the phases of a fine-tuning leave, before anything is evaluated."""

    model: Classifier
    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    start: dict[str, torch.Tensor]
    views: Views

    def of(self, phase: str, name: str) -> list[float]:
        """Values of a phase, in order."""
        return [row[name] for row in self.rows if row["phase"] == phase and name in row]

    def val_loss(self, pack_folder: Path) -> float:
        """Loss of the model as it is on the validation patches, all in one batch."""
        pack = Pack.open(pack_folder)
        rows = pack.rows("val")
        with torch.no_grad():
            x = self.views.center([torch.from_numpy(group) for group in pack.read(rows)])
            return float(Task.of(pack).loss(self.model.eval()(x), torch.from_numpy(pack.labels[rows])))


def tune(pack_folder: Path, out: Path, *overrides: str, own: Path | None = None) -> Tuned:
    """Train the phases as the stage does, and stop there. own: a folder of further YAML, as of --config-dir."""
    line = [*QUICK, *overrides]
    checked = check_overrides("finetune", FinetuneSpec, line if own is None else [f"--config-dir={own}", *line])
    values = compose_raw("finetune", [text for text in checked if not text.startswith("--")], own, strict=True)
    spec = FinetuneSpec.parse(values)
    out.mkdir(parents=True, exist_ok=True)
    engine.prepare(spec.trainer, out)
    pack = Pack.open(pack_folder)
    task = Task.of(pack)
    encoder, card = regularised(*setup.starting_encoder(spec, pack, {}), spec)
    card = card.model_copy(update={"classes": list(task.classes), "head": spec.head.model_dump()})
    model = model_io.with_head(encoder, card, spec.seed)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    views = setup.views(spec.augment, pack, card, spec.seed)
    metrics = phases.train_phases(spec, model, views, pack, task, out)
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return Tuned(model, metrics, rows, start, views)
