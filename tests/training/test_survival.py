"""Killed wherever it hurts, the same command ends with the same bits; what cannot be survived is said clearly."""

from __future__ import annotations

import json
import os
import resource
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.runs import Run, finished
from PIL import Image

STEPS, PER_EPOCH = 18, 6
SPEED = {"images_per_second", "data_wait_share"}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training patches of two classes, 8 of validation, 8 of test."""
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


def arguments(pack: Path, outputs: Path, *more: str) -> list[str]:
    return [
        "data=imagefolder", f"pack={pack}", f"watch.pack={pack}", "watch.k=3", "encoder=cnn", "augment=simclr_rgb",
        "epochs=3", "batch_size=4", "image_size=16", "optim.warmup_epochs=1", "trainer.threads=1",
        "trainer.accelerator=cpu", "trainer.checkpoint_every_n_steps=3", "trainer.log_every_n_steps=2",
        "trainer.tensorboard=false", f"outputs={outputs}", *more,
    ]  # fmt: skip


# What happens to a process before it runs: each of these is called in it.


def record(path: Path) -> None:
    """Note the sample ids of every step."""
    from ssl_sat.training.pretraining import PretrainModule

    step = PretrainModule.training_step

    def noted(self, batch, batch_idx):
        with path.open("a") as file:
            file.write(json.dumps([self.current_epoch, batch_idx, batch.rows_N.tolist()]) + "\n")
        return step(self, batch, batch_idx)

    PretrainModule.training_step = noted


def die_in_save(path: Path, count: int) -> None:
    """SIGKILL with half of the n-th checkpoint written."""
    record(path)
    save, calls = torch.save, []

    def half(data, file):
        calls.append(1)
        save(data, file)
        if len(calls) == count:
            file.truncate(file.tell() // 2)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half


def die_in_watch(path: Path, count: int) -> None:
    """SIGKILL within the n-th evaluation."""
    record(path)
    from ssl_sat.training.watching import LabelledProbe

    measure, calls = LabelledProbe.measure, []

    def killed(self, encoder, device):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(self, encoder, device)

    LabelledProbe.measure = killed


def in_slurm(folder: Path) -> None:
    """A task of a Slurm job, whose time is up within the eighth step; `scontrol` notes how it is called."""
    task = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    os.environ.update({f"SLURM_{name}": value for name, value in task.items()})
    (folder / "scontrol").write_text(f"#!/bin/sh\necho $@ > {folder}/called\n")
    (folder / "scontrol").chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    terminate_at(folder / "ids", 8, signal.SIGUSR1)


def terminate_at(path: Path, steps: int, number: int = signal.SIGTERM) -> None:
    """A signal to itself within a step."""
    record(path)
    from ssl_sat.training.pretraining import PretrainModule

    step = PretrainModule.training_step

    def told(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if self.global_step + 1 == steps:
            os.kill(os.getpid(), number)
        return loss

    PretrainModule.training_step = told


def spoil(step_number: int) -> None:
    """An infinite gradient at one step: its loss is finite, the weights after it are not."""
    from ssl_sat.training.pretraining import PretrainModule

    def ruin(self, optimizer):
        if self.global_step + 1 == step_number:
            next(self.method.encoder.parameters()).grad.fill_(float("inf"))

    PretrainModule.on_before_optimizer_step = ruin


def collapse(step_number: int) -> None:
    """Embeddings that all point one way from a step on."""
    from ssl_sat.training.pretraining import PretrainModule

    def ruin(self, *unused):
        if self.global_step + 1 == step_number:
            last = [module for module in self.method.head.modules() if isinstance(module, torch.nn.BatchNorm1d)][-1]
            with torch.no_grad():
                last.weight.zero_()
                last.bias.fill_(1.0)

    PretrainModule.on_train_batch_start = ruin


def small_files(limit: int) -> None:
    """The disk takes no file beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def rows_of(outputs: Path) -> list[dict]:
    return [json.loads(line) for line in (folder_of(outputs) / "history.jsonl").read_text().splitlines()]


def folder_of(outputs: Path) -> Path:
    folders = [*outputs.glob("pretrain/*.partial"), *outputs.glob("pretrain/latest")]
    return folders[0]


def checkpoints(outputs: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder_of(outputs).glob("checkpoints/run/[0-9]*.ckpt"))


def csv_without_speed(outputs: Path) -> list[dict[str, str]]:
    import csv

    with (folder_of(outputs) / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in SPEED} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, with its sample ids."""
    outputs = tmp_path_factory.mktemp("whole")
    run = Run("pretrain", arguments(pack, outputs), outputs, partial(record, outputs / "ids"))
    assert run.code() == 0, run.said
    return outputs


def same_artifact(a: Path, b: Path) -> None:
    for name in ("model.safetensors", "projection_head.safetensors", "metrics.json", "history.jsonl"):
        assert (folder_of(a) / name).read_bytes() == (folder_of(b) / name).read_bytes(), name
    assert csv_without_speed(a) == csv_without_speed(b)


def test_killed_in_save_and_in_watch_and_terminated_it_ends_with_the_same_bits(pack, whole, tmp_path):
    ids = tmp_path / "ids"
    command = arguments(pack, tmp_path)
    for setup, code, kept in [
        (partial(die_in_watch, ids, 1), -signal.SIGKILL, []),  # the untrained encoder's evaluation
        (partial(die_in_save, ids, 3), -signal.SIGKILL, [3, 6]),  # the save after step 9
        (partial(terminate_at, ids, 8), 143, [6, 8]),  # resumed at the end of an epoch
        (partial(die_in_save, ids, 2), -signal.SIGKILL, [8, 9]),  # the one at the end of the second epoch
        (partial(terminate_at, ids, 12), 143, [9, 12]),  # in the last step of an epoch
        (partial(die_in_watch, ids, 1), -signal.SIGKILL, [12, 15]),  # after the third epoch
        (partial(terminate_at, ids, 18), 143, [15, 18]),  # in the last step of all
    ]:
        run = Run("pretrain", command, tmp_path, setup)
        assert run.code() == code, run.said[-2000:]
        assert checkpoints(tmp_path)[-2:] == kept
    said = finished("pretrain", command, tmp_path)
    assert "resuming" in said
    same_artifact(whole, tmp_path)

    expected = [json.loads(line) for line in (whole / "ids").read_text().splitlines()]
    seen = {(epoch, batch): rows for epoch, batch, rows in map(json.loads, ids.read_text().splitlines())}
    assert len(expected) == STEPS
    assert [[epoch, batch, rows] for (epoch, batch), rows in sorted(seen.items())] == expected
    for epoch in range(3):  # every epoch shows every patch once, in an order of its own
        assert sorted(row for e, _, rows in expected if e == epoch for row in rows) == list(range(24))
    assert len({json.dumps([rows for e, _, rows in expected if e == epoch]) for epoch in range(3)}) == 3


def test_the_history_begins_with_the_untrained_encoder_and_watches_every_epoch(whole):
    rows = rows_of(whole)
    watched = [row for row in rows if "loss" not in row]
    assert [(row["epoch"], row["step"]) for row in watched] == [(-1, 0), (0, 6), (1, 12), (2, 18)]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    metrics = json.loads((folder_of(whole) / "metrics.json").read_text())
    for name in ("knn_accuracy", "linear_accuracy", "rankme", "rankme_features"):
        assert metrics[name] == watched[-1][name]
        assert metrics[f"{name}_gain"] == watched[-1][name] - watched[0][name]
    for row in rows:
        if "loss" in row:
            assert row["loss_above_floor"] == row["loss"] - row["loss_floor"] > 0
    speed = json.loads((folder_of(whole) / "provenance.json").read_text())["speed"]
    assert speed["images"] == STEPS * 4
    assert 0 <= speed["data_wait_share"] <= 1


def test_watching_changes_no_weight_and_no_fingerprint(pack, whole, tmp_path):
    unwatched = [a for a in arguments(pack, tmp_path, "watch.rankme=0") if not a.startswith(("watch.pack", "watch.k"))]
    finished("pretrain", unwatched, tmp_path)
    assert folder_of(tmp_path).resolve().name == folder_of(whole).resolve().name
    for name in ("model.safetensors", "projection_head.safetensors"):
        assert (folder_of(tmp_path) / name).read_bytes() == (folder_of(whole) / name).read_bytes()
    assert all("loss" in row for row in rows_of(tmp_path))


def test_slurm_requeues_through_lightning_once_the_step_is_saved(pack, whole, tmp_path):
    run = Run("pretrain", arguments(pack, tmp_path), tmp_path, partial(in_slurm, tmp_path))
    assert run.code() == 128 + signal.SIGUSR1, run.said[-2000:]
    assert (tmp_path / "called").read_text() == "requeue 7\n"
    assert checkpoints(tmp_path) == [3, 6, 8]
    finished("pretrain", arguments(pack, tmp_path), tmp_path)
    same_artifact(whole, tmp_path)


def test_weights_that_are_not_finite_are_never_saved(pack, tmp_path):
    command = arguments(pack, tmp_path, "trainer.checkpoint_every_n_steps=1", "trainer.log_every_n_steps=50")
    run = Run("pretrain", command, tmp_path, partial(spoil, 5))
    assert run.code() == 2
    assert "the weights are not finite after epoch 0, step 5; they were not saved" in run.said
    assert "000000004.ckpt" in run.said
    assert "Traceback" not in run.said
    assert checkpoints(tmp_path) == [3, 4]
    state = torch.load(folder_of(tmp_path) / "checkpoints/run/000000004.ckpt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())
    assert not list(tmp_path.glob("pretrain/*/artifact.json"))


def test_collapse_stops_with_its_cause_before_a_collapsed_state_is_saved(pack, tmp_path):
    command = arguments(pack, tmp_path, "trainer.checkpoint_every_n_steps=2", "trainer.log_every_n_steps=50")
    run = Run("pretrain", command, tmp_path, partial(collapse, 4))
    assert run.code() == 2
    assert "the embeddings collapsed at epoch 0, step 4: their spread is 0.0" in run.said
    assert checkpoints(tmp_path) == [2]


def test_a_disk_that_is_full_and_data_that_has_vanished_cost_nothing(pack, whole, tmp_path):
    command = arguments(pack, tmp_path)
    run = Run("pretrain", command, tmp_path, partial(small_files, 2_000_000))
    assert run.code() == 2, run.said
    assert "000000003.ckpt cannot be written: File too large" in run.said
    assert "Traceback" not in run.said
    assert not list(tmp_path.glob("pretrain/*/artifact.json"))
    assert [p.name for p in folder_of(tmp_path).glob("checkpoints/run/*")] == []

    patches = pack / "patches.bin"
    patches.rename(pack / "elsewhere")
    try:
        run = Run("pretrain", command, tmp_path)
        assert run.code() == 2
        assert str(patches) in run.said
        assert "Traceback" not in run.said
    finally:
        (pack / "elsewhere").rename(patches)
    finished("pretrain", command, tmp_path)
    same_artifact(whole, tmp_path)
