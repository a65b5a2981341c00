"""Two processes over gloo, started as users start them, train what one process trains with the same global batch.

The network has no batch norm, which cannot be synchronised on a CPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.runs import finished
from PIL import Image
from safetensors.numpy import load_file

STEPS = 6
SHARED = {"loss", "loss_floor", "loss_collapse", "positive_similarity", "rankme", "knn_accuracy", "linear_accuracy"}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (root / "raw" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(60 * label, 100 + 100 * label, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "raw" / name / f"{name}_{number}.png")
    arguments = ["data=imagefolder", f"data.root={root}/raw", "data.size_px=null", "data.split=fractions"]
    finished("pack", [*arguments, "data.val_fraction=0.2", "data.test_fraction=0.2", f"outputs={root}"], root)
    return (root / "pack" / "latest").resolve()


def arguments(pack: Path, outputs: Path) -> list[str]:
    return [
        "data=imagefolder", f"pack={pack}", f"watch.pack={pack}", "watch.k=3", "encoder=vit_tiny", "augment=simclr_rgb",
        "method.head_batch_norm=false", "epochs=2", "batch_size=8", "image_size=16", "optim.warmup_epochs=1",
        "trainer.threads=1", "trainer.accelerator=cpu", "trainer.checkpoint_every_n_steps=2",
        "trainer.log_every_n_steps=1", "trainer.tensorboard=false", f"outputs={outputs}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("alone")
    finished("pretrain", arguments(pack, outputs), outputs)
    return outputs / "pretrain" / "latest"


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def same_training(one: Path, two: Path) -> None:
    assert one.resolve().name == two.resolve().name  # the number of devices is no science
    rows = list(zip(history(one), history(two), strict=True))
    assert len([a for a, _ in rows if "loss" in a]) == STEPS
    for a, b in rows:
        assert (a["epoch"], a["step"]) == (b["epoch"], b["step"])
        assert a.keys() == b.keys()
        for name in a.keys() & SHARED:
            assert a[name] == pytest.approx(b[name], rel=1e-4), (name, a["step"])
    ours, theirs = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours) < 5e-5


def test_lightning_starts_both_a_kill_of_both_is_resumed_and_one_process_agrees(pack, alone, tmp_path):
    command = [sys.executable, "-m", "ssl_sat.pretrain", *arguments(pack, tmp_path), "trainer.devices=2"]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("pretrain/*.partial/checkpoints/run/000000004.ckpt")):
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "resuming" in done.stdout
    assert done.stdout.count("loss of the last epoch") == 1  # the main process alone speaks
    same_training(alone, tmp_path / "pretrain" / "latest")


def test_torchrun_starts_both_and_one_process_agrees(pack, alone, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command = [*torchrun, "ssl_sat.pretrain", *arguments(pack, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    same_training(alone, tmp_path / "pretrain" / "latest")
