"""Pretraining on the device follows the loss curve of the CPU within rounding, watched, in both precisions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCENES = ("data=scenes", "data.patches_per_class=40", "watch.data=scenes", "watch.data.patches_per_class=40")
SMALL = ("encoder=vit_tiny", "epochs=2", "batch_size=32", "optim.warmup_epochs=0.5", "watch.k=5",
         "trainer.log_every_n_steps=1", "trainer.threads=2", "trainer.tensorboard=false")  # fmt: skip


def pretrain(outputs: Path, *more: str) -> tuple[list[dict], dict]:
    command = [sys.executable, "-m", "ssl_sat.pretrain", *SCENES, *SMALL, f"outputs={outputs}", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    folder = outputs / "pretrain" / "latest"
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], dict]:
    return pretrain(tmp_path_factory.mktemp("cpu"), "trainer.accelerator=cpu")


BF16 = "trainer.precision=bf16-mixed"


@pytest.mark.parametrize(("more", "rel"), [((), 2e-2), ((BF16,), 5e-2), ((BF16, "trainer.compile=true"), 5e-2)])
def test_the_device_trains_what_the_cpu_trains(on_cpu, tmp_path, more, rel) -> None:
    rows, metrics = pretrain(tmp_path, "trainer.accelerator=cuda", "trainer.devices=1", *more)
    expected, _ = on_cpu
    assert [(row["epoch"], row["step"], sorted(row)) for row in rows] == [
        (row["epoch"], row["step"], sorted(row)) for row in expected
    ]
    for a, b in zip(rows, expected, strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=rel), a["step"]
    assert 0 <= metrics["knn_accuracy"] <= 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not run: fewer than two CUDA devices on this machine")
def test_two_devices_with_batch_norm_train_what_one_trains(tmp_path) -> None:
    more = ("encoder=resnet18", "trainer.accelerator=cuda")
    one, _ = pretrain(tmp_path / "one", *more, "trainer.devices=1")
    two, _ = pretrain(tmp_path / "two", *more, "trainer.devices=2")
    for a, b in zip(one, two, strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=2e-2), a["step"]
