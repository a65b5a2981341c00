"""Two processes over gloo fine-tune as one does with the same global batch: sampled rows, mixed patches, early stops.

The network has no batch norm, which cannot be synchronised on a CPU, and the head no dropout, which is drawn by rank.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
from fakes.tuning import make_pack, tune
from safetensors.torch import load_file, save_file

LINE = (
    "encoder=vit_tiny", "phases=llrd", "phases.steps.all.epochs=4", "phases.shared.stop.patience=2", "head.dropout=0",
    "imbalance=sampler", "mix.mixup=0.4", "mix.cutmix=1.0", "optim.scale=none",
)  # fmt: skip
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ssl_sat.training.phases", "ssl_sat.finetune", "ssl_sat.pack", "ssl_sat.config"])


def trained(pack: Path, out: Path, rank: int, port: int) -> None:
    """One of two processes, as torchrun starts them."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    run = tune(pack, out, *LINE, "trainer.devices=2")
    save_file({name: value.contiguous() for name, value in run.model.state_dict().items()}, out / f"{rank}.safetensors")


def test_two_processes_train_what_one_trains(tmp_path):
    pack = make_pack(tmp_path / "pack", sizes=(30, 10))
    alone = tune(pack, tmp_path / "alone", *LINE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = tmp_path / "both"
    both.mkdir()
    started = [_CONTEXT.Process(target=trained, args=(pack, both, rank, port)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0, 0]
    rows = [json.loads(line) for line in (both / "history.jsonl").read_text().splitlines()]
    assert len(rows) == len(alone.rows) >= 8
    for ours, theirs in zip(rows, alone.rows, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"phase"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (name, ours["step"])
    first, second = (load_file(both / f"{rank}.safetensors") for rank in range(2))
    for name, value in alone.model.state_dict().items():
        assert (first[name] == second[name]).all(), name
        assert float((first[name] - value).abs().max()) < 5e-5, name
