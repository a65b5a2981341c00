"""The phases of a fine-tuning one after the other, what each hands to the next, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from ssl_sat.artifact import write_atomic
from ssl_sat.augment.views import Views
from ssl_sat.data.packed import Pack
from ssl_sat.data.subset import select
from ssl_sat.optim.schedule import scaled_lr
from ssl_sat.ranks import is_main_process
from ssl_sat.spec import ConfigError
from ssl_sat.training import engine
from ssl_sat.training.callbacks import epoch_mean, read_history
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.finetuning import FinetuneModule, Work
from ssl_sat.training.freezing import expanded
from ssl_sat.training.imbalance import IMBALANCES
from ssl_sat.training.imbalance.balance import Labels
from ssl_sat.training.rates import Leg, curve_of, legs, moments, scales
from ssl_sat.training.supervision import Patience, Supervisor
from ssl_sat.training.task import Task


def train_phases(spec: Any, model: Classifier, views: Views, pack: Pack, task: Task, out: Path) -> dict[str, Any]:
    """Train the phases, each a run of the Trainer; a resumed run skips those that are done. Return flat metrics.

    Separate runs, because DistributedDataParallel fixes at its start which parameters it synchronises.
    """
    rows = select(pack, pack.rows("train"), spec.subset)
    labels = Labels(rows, pack.labels[rows], pack.ids)
    balance = IMBALANCES.build(spec.imbalance, labels=labels, task=task, seed=spec.seed)
    work = Work(spec, model, views, pack, task, balance)
    plan = legs(expanded(spec.phases, model))
    watched = [Supervisor(leg, work.measured) for leg in plan]  # whatever is wrong is told before the first step
    _refuse_blind(spec, watched)
    for leg in plan:
        curve_of(leg, spec.optim, 1000)
    metrics: dict[str, Any] = {"train_patches": balance.epoch_size}
    carried: dict[str, Tensor] = {}
    for at, (leg, supervisor) in enumerate(zip(plan, watched, strict=True)):
        module = FinetuneModule(work, leg, supervisor, carried)
        metrics[f"phase_{leg.name}_trainable_parameters"] = module.trainable
        hands_on = at + 1 < len(plan) and plan[at + 1].phase.optimizer == "continue"
        carried = _train(module, out, hands_on)
    if not is_main_process():  # the history is the main process's, who is about to move it
        return {}
    engine.clear(out)
    return {**metrics, **_outcomes(plan, out / "history.jsonl")}


def _refuse_blind(spec: Any, watched: list[Supervisor]) -> None:
    """Early stopping and plateaus count epochs by their validations."""
    every = spec.trainer.validate_every_n_epochs
    deciding = [supervisor.leg.name for supervisor in watched if supervisor.stopping or supervisor.plateau]
    if every > 1 and deciding:
        raise ConfigError(
            f"trainer.validate_every_n_epochs={every}: phase {deciding[0]} decides by every epoch's validation; set 1"
        )


def _train(module: FinetuneModule, out: Path, hands_on: bool) -> dict[str, Tensor]:
    """Train a phase, or take what it ended with; return the moments that the next one continues, if it does."""
    leg, spec = module.leg, module.work.spec
    kept = out / "checkpoints" / leg.name / "moments.safetensors"
    if engine.is_done(out, leg.name):
        module.model.load_state_dict(engine.load_done(out, leg.name))
        return load_file(kept) if hands_on else {}
    _announce(module)
    engine.fit(
        module, spec.trainer, out, epochs=leg.phase.epochs, label=f"finetune, phase {leg.name}", phase=leg.name,
        callbacks=[module.supervisor],
    )  # fmt: skip
    carried = moments(module.trainer.optimizers[0], module.model) if hands_on else {}
    module.supervisor.restore(module.model)
    if hands_on and is_main_process():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, save(carried))
    engine.mark_done(out, leg.name, module.model.state_dict())
    return carried


def _announce(module: FinetuneModule) -> None:
    """Say what trains, and at which peak rates at this batch size."""
    if not is_main_process():
        return
    optim = module.work.spec.optim
    everything = sum(p.numel() for p in module.model.parameters())
    peak = scaled_lr(module.phase.lr, module.batch_size, optim.base_batch, optim.scale)
    factors = scales(module.model, module.phase).values()
    low, high = min(factors) * peak, max(factors) * peak
    rates = f"lr {high:.3g}" if low == high else f"lr {low:.3g} to {high:.3g}"
    share = f"{module.trainable:,} of {everything:,} parameters train"
    print(f"  phase {module.leg.name}: {share}; {rates}, {module.phase.epochs} epochs", flush=True)


def _outcomes(plan: list[Leg], history: Path) -> dict[str, Any]:
    """Epochs of each phase, the best one where it was looked for, and training's own values at the end."""
    rows = read_history(history)
    found: dict[str, Any] = {"epochs": 0}
    for leg in plan:
        own = [row for row in rows if row["phase"] == leg.name]
        last = max((row["epoch"] for row in own), default=-1)
        found["epochs"] += last + 1
        found[f"phase_{leg.name}_epochs"] = last + 1
        stop = leg.phase.stop
        if stop is not None:
            patience = Patience(stop.metric, stop.min_delta)
            better = [row["epoch"] for row in own if stop.metric in row and patience.improved(row[stop.metric])]
            found[f"phase_{leg.name}_best_epoch"] = better[-1] + 1 if better else None
            found[f"phase_{leg.name}_best_{stop.metric}"] = patience.best
            last = better[-1] if better and stop.restore_best else last
    names = sorted({key for row in own for key in row if not key.startswith("val_")} - {"phase", "epoch", "step", "lr"})
    return found | {f"train_{name}": epoch_mean(rows, name, last, leg.name) for name in names}
