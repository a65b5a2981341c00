"""Early stopping, plateaus and what phases leave as it was, on real runs of a few seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.tuning import Tuned, make_pack, tune
from safetensors.torch import load_file

from ssl_sat.spec import ConfigError
from ssl_sat.training import engine
from ssl_sat.training.supervision import Patience

WILD = ("phases=full", "phases.steps.all.lr=3e-2", "optim.scale=none")  # so that validation gets worse now and then


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def stopped(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    stop = ("phases.steps.all.epochs=20", "phases.shared.stop.patience=2")
    return tune(pack, tmp_path_factory.mktemp("stopped"), *WILD, *stop)


def test_patience_counts_epochs_without_improvement():
    loss = Patience("val_loss", 0.1)
    assert [loss.improved(value) for value in (1.0, 0.95, 0.85, float("nan"), 0.8)] == [True, False, True, False, False]
    assert (loss.best, loss.waited) == (0.85, 2)
    share = Patience("val_accuracy", 0.0)
    assert [share.improved(value) for value in (0.5, 0.5, 0.6)] == [True, False, True]


def test_it_stops_after_its_patience_with_the_weights_of_the_best_epoch(stopped, pack):
    losses = stopped.of("all", "val_loss")
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 20
    assert stopped.metrics["phase_all_epochs"] == stopped.metrics["epochs"] == best + 3
    assert stopped.metrics["phase_all_best_epoch"] == best + 1
    assert stopped.metrics["phase_all_best_val_loss"] == min(losses)
    assert stopped.val_loss(pack) == pytest.approx(min(losses), rel=1e-6)
    train = [row["loss"] for row in stopped.rows if row["epoch"] == best and "loss" in row]
    assert stopped.metrics["train_loss"] == pytest.approx(np.mean(train), rel=1e-12)


def test_the_last_weights_where_the_best_are_not_wanted(pack, tmp_path, stopped):
    stop = ("phases.shared.stop.patience=2", "phases.shared.stop.restore_best=false")
    last = tune(pack, tmp_path, *WILD, "phases.steps.all.epochs=20", *stop)
    assert last.rows == stopped.rows  # the same training
    assert last.val_loss(pack) == pytest.approx(last.of("all", "val_loss")[-1], rel=1e-6)
    assert last.val_loss(pack) > stopped.val_loss(pack)


def test_best_weights_without_an_early_end(pack, tmp_path, stopped):
    never = tune(pack, tmp_path, *WILD, "phases.steps.all.epochs=8", "phases.shared.stop.patience=null")
    assert len(never.of("all", "val_loss")) == 8
    assert never.val_loss(pack) == pytest.approx(min(never.of("all", "val_loss")), rel=1e-6)


def test_a_plateau_is_torchs(pack, tmp_path):
    """torch's patience counts the epochs that it bears, ours those after which it acts: one more."""
    plateau = ("schedule.name=plateau", "schedule.patience=2", "schedule.gamma=0.5", "schedule.floor=0.2")
    run = tune(pack, tmp_path, *WILD, "phases.steps.all.epochs=14", *(f"phases.shared.{one}" for one in plateau))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-2)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=1, threshold=0, threshold_mode="abs", min_lr=0.2 * 3e-2
    )
    for epoch in range(14):
        rates = [row["lr"] for row in run.rows if row["epoch"] == epoch and "lr" in row]
        assert rates == pytest.approx([optimizer.param_groups[0]["lr"]] * 3, rel=1e-6), epoch
        oracle.step(run.of("all", "val_loss")[epoch])
    assert optimizer.param_groups[0]["lr"] < 3e-2  # it did act


def test_what_is_frozen_is_the_same_to_the_bit(pack, tmp_path):
    probe = tune(pack, tmp_path / "probe", "phases=linear_probe", "epochs=2")
    state = probe.model.state_dict()
    encoder = [name for name in state if name.startswith("encoder.")]
    assert any("running_mean" in name for name in encoder)
    assert all(torch.equal(state[name], probe.start[name]) for name in encoder)
    assert not any(torch.equal(state[name], probe.start[name]) for name in state if name not in encoder)
    named = tune(pack, tmp_path / "named", "phases=full", "epochs=2", "phases.steps.all.freeze=[block1]")
    state = named.model.state_dict()
    same = {name for name in state if torch.equal(state[name], named.start[name])}
    assert same == {name for name in state if name.startswith("encoder.blocks.0.")}


def test_an_optimiser_goes_on_where_it_was(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "clear", lambda out: None)  # to see what the phases hand on
    step = "{epochs: 1, train: last_k, lr: 1e-3, optimizer: continue, schedule: continue}"
    own = tmp_path / "own" / "phases"
    own.mkdir(parents=True)
    first = step.replace(", optimizer: continue, schedule: continue", "")
    again = step.replace("optimizer: continue", "optimizer: restart")
    for name, second in (("further", step), ("anew", again)):
        (own / f"{name}.yaml").write_text(
            f"name: {name}\nk: 1\nsteps:\n  a: {first}\n  b: {second.replace('last_k', 'last_k, k: 2')}\n  c: {step}\n"
        )
        tune(pack, tmp_path / name, f"phases={name}", own=own.parent)
    counts = {}
    for name in ("further", "anew"):
        moments = load_file(tmp_path / name / "checkpoints" / "b" / "moments.safetensors")
        counts[name] = {
            key: float(moments[f"{key}|step"]) for key in ("head.layers.0.weight", "encoder.blocks.1.0.weight")
        }
    per_epoch = 24 // 8
    assert counts["further"] == {"head.layers.0.weight": 2 * per_epoch, "encoder.blocks.1.0.weight": per_epoch}
    assert set(counts["anew"].values()) == {per_epoch}


def test_gradual_unfreezing_makes_a_phase_of_every_stage(pack, tmp_path):
    run = tune(pack, tmp_path, "phases=gradual", "phases.steps.head.epochs=1", "phases.steps.stages.epochs=1")
    counts = [
        run.metrics[f"phase_{name}_trainable_parameters"] for name in ("head", "stages_1", "stages_2", "stages_3")
    ]
    assert counts == sorted(counts) and len(set(counts)) == 4
    assert counts[-1] == sum(p.numel() for p in run.model.parameters())
    rates = [row["lr"] for row in run.rows if "lr" in row]
    assert len(rates) == 12 and rates == sorted(rates, reverse=True)  # one cosine over all of it


def test_clipping_and_half_precision_reach_the_phases(pack, tmp_path):
    line = ("phases=full", "epochs=1", "optim=sgd", "optim.scale=none", "optim.weight_decay=0", "optim.warmup_epochs=0")
    line = (*line, "phases.steps.all.lr=1", "phases.steps.all.batch_norm=eval")
    free, clipped = tune(pack, tmp_path / "free", *line), tune(pack, tmp_path / "cut", *line, "trainer.clip_norm=1e-3")

    def moved(run: Tuned) -> float:
        changes = [(value.detach() - run.start[name]).double() for name, value in run.model.named_parameters()]
        return float(sum(change.square().sum() for change in changes).sqrt())

    assert moved(clipped) <= 1e-3 * (1 + 1.9 + 2.71) * 1.0001 < moved(free)  # three steps with momentum 0.9
    half = tune(pack, tmp_path / "half", *line, "trainer=bf16")
    first = free.of("all", "loss")[0]
    assert half.of("all", "loss")[0] == pytest.approx(first, rel=0.02) and half.of("all", "loss")[0] != first


def test_a_warm_up_that_does_not_fit_a_later_phase_is_told_at_once(pack, tmp_path):
    line = ("phases=progressive", "phases.steps.all.epochs=1", "phases.steps.all.schedule.warmup_epochs=2")
    with pytest.raises(ConfigError, match=r"phases\.steps\.all: a warm-up of 2 epochs leaves nothing of 1"):
        tune(pack, tmp_path, *line)
    assert not (tmp_path / "history.jsonl").exists()


def test_what_cannot_be_watched_is_told_before_anything_trains(pack, tmp_path):
    with pytest.raises(ConfigError, match=r"all\.stop\.metric=val_f1: what validation measures is val_loss, val_acc"):
        tune(pack, tmp_path / "a", "phases=full", "phases.shared.stop.metric=val_f1")
    without = make_pack(tmp_path / "raw", val=0.0)
    with pytest.raises(ConfigError, match=r"all\.schedule\.metric=val_loss: the data has no validation patches"):
        tune(without, tmp_path / "b", "phases=full", "phases.shared.schedule.name=plateau")
