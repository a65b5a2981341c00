"""Fine-tuning killed anywhere ends with the same bits: early stops, plateaus, continued optimisers, mixed patches."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from fakes.tuning import make_pack, tune
from safetensors.torch import load_file, save_file

from ssl_sat.training import engine
from ssl_sat.training.finetuning import FinetuneModule

PHASES = """
name: stops
shared:
  schedule: {name: plateau, patience: 1, gamma: 0.5, warmup_epochs: 0.5}
steps:
  first: {epochs: 3, train: last_stage, lr: 3.0e-2}
  second: {epochs: 12, train: all, lr: 3.0e-2, layer_decay: 0.8, optimizer: continue, stop: {patience: 2}}
  third: {epochs: 2, train: all, lr: 1.0e-2, optimizer: continue, schedule: {name: cosine}}
"""
LINE = (
    "phases=stops", "optim.scale=none", "imbalance=sampler", "mix.mixup=0.4", "mix.cutmix=1.0", "head.dropout=0.3",
    "trainer.checkpoint_every_n_steps=2",
)  # fmt: skip
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ssl_sat.training.phases", "ssl_sat.finetune", "ssl_sat.pack", "ssl_sat.config"])


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"), sizes=(30, 10))


def trained(pack: Path, out: Path, own: Path, kill_at: int | None = None, in_done: str = "") -> None:
    """Train to the end, or until SIGKILL in the n-th step of this process, or when a phase is over but not noted."""
    step, done, calls = FinetuneModule.training_step, engine.mark_done, []

    def counted(self, batch, batch_idx):
        calls.append(1)
        if len(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)

    def noted(out, phase, state):
        if phase == in_done:
            os.kill(os.getpid(), signal.SIGKILL)
        done(out, phase, state)

    FinetuneModule.training_step, engine.mark_done = counted, noted
    run = tune(pack, out, *LINE, own=own)
    save_file({name: value.contiguous() for name, value in run.model.state_dict().items()}, out / "end.safetensors")


def process(*arguments: object, **options: object) -> int:
    started = _CONTEXT.Process(target=trained, args=arguments, kwargs=options)
    started.start()
    started.join(200)
    assert started.exitcode is not None
    return started.exitcode


def test_killed_anywhere_it_ends_with_the_same_bits(pack, tmp_path):
    own = tmp_path / "own"
    (own / "phases").mkdir(parents=True)
    (own / "phases" / "stops.yaml").write_text(PHASES)
    assert process(pack, tmp_path / "whole", own) == 0
    cut = tmp_path / "cut"
    for kill in ({"kill_at": 5}, {"kill_at": 12}, {"kill_at": 9}, {"in_done": "second"}, {"kill_at": 4}):
        assert process(pack, cut, own, **kill) == -signal.SIGKILL, kill
    assert process(pack, cut, own) == 0
    whole = (tmp_path / "whole" / "history.jsonl").read_text()
    assert whole == (cut / "history.jsonl").read_text()
    a, b = (load_file(folder / "end.safetensors") for folder in (tmp_path / "whole", cut))
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)
    assert 3 <= whole.count('"phase": "second"') // 4 < 12  # it did stop early, and its rate did fall
    rates = {line.partition('"lr": ')[2] for line in whole.splitlines() if '"second"' in line and '"lr"' in line}
    assert len(rates) >= 2
