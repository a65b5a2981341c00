"""A killed run, started again by the same command, ends with the same bits as one that was never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMON = [
    "trainer.threads=1",
    "trainer.checkpoint_every_n_steps=2",
    "trainer.log_every_n_steps=1",
    "trainer.tensorboard=false",
]
DATA = [
    "data=imagefolder",
    "data.size_px=null",
    "data.split=fractions",
    "data.val_fraction=0.2",
    "data.test_fraction=0.2",
]
PRETRAIN = [
    *DATA,
    "encoder=cnn",
    "augment=simclr_rgb",
    "epochs=3",
    "batch_size=4",
    "image_size=16",
    "optim.warmup_epochs=1",
]
FINETUNE = [
    *DATA, "init=scratch", "encoder=cnn", "image_size=16", "batch_size=4", "phases=study", "phases.steps.head.epochs=2",
    "phases.steps.last_stage.epochs=1", "phases.steps.all.epochs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (root / name).mkdir()
        for number in range(20):
            pixels = generator.integers(60 * label, 100 + 100 * label, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{number}.png")
    return root


def command(stage: str, images: Path, outputs: Path, extra: list[str]) -> list[str]:
    paths = [f"data.root={images}", f"outputs={outputs}"]
    return [sys.executable, "-m", f"ssl_sat.{stage}", *extra, *COMMON, *paths]


def finish(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def kill_at(arguments: list[str], outputs: Path, stage: str, lines: int) -> int:
    """Start a run and kill it with SIGKILL once its history has so many lines; return how many it has then."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            histories = list(outputs.glob(f"{stage}/*.partial/history.jsonl"))
            if histories and len(histories[0].read_text().splitlines()) >= lines:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return len(histories[0].read_text().splitlines())
            time.sleep(0.002)
    finally:
        process.kill()
    raise AssertionError("the run ended before it could be killed")


@pytest.mark.parametrize(("stage", "extra", "at"), [("pretrain", PRETRAIN, (4, 11)), ("finetune", FINETUNE, (5, 22))])
def test_killed_twice_ends_with_the_same_bits(stage, extra, at, images, tmp_path):
    """Each attempt reads its data another way, as on a machine with more or less free memory."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(command(stage, images, whole, extra))
    for lines, tier in zip(at, ("map", "device"), strict=True):
        attempt = command(stage, images, cut, [*extra, f"trainer.data_tier={tier}"])
        killed_at = kill_at(attempt, cut, stage, lines)
        assert not list(cut.glob(f"{stage}/*/artifact.json")), f"finished by line {killed_at}"
    said = finish(command(stage, images, cut, [*extra, "trainer.data_tier=pinned", "trainer.data_ahead=2"]))
    assert "resuming" in said
    if stage == "pretrain":  # a fine-tuning names its tier in the first phase, which is over by now
        assert "ring of 2 batches; fits in host memory" in said
    a, b = whole / stage / "latest", cut / stage / "latest"
    assert a.resolve().name == b.resolve().name
    for name in ("model.safetensors", "metrics.json", "history.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert "already done" in finish(command(stage, images, cut, extra))


def test_two_runs_of_one_seed_agree_and_another_seed_differs(images, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    extra = [*PRETRAIN, "epochs=2"]
    finish(command("pretrain", images, first, extra))
    finish(command("pretrain", images, second, extra))
    weights = [(folder / "pretrain/latest/model.safetensors").read_bytes() for folder in (first, second)]
    metrics = [(folder / "pretrain/latest/metrics.json").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    assert metrics[0] == metrics[1]
    finish(command("pretrain", images, second, [*extra, "seed=1"]))
    assert (second / "pretrain/latest/model.safetensors").read_bytes() != weights[0]
