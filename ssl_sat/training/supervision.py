"""What follows from each validation: an early end, the best weights kept, the rate lowered on a plateau.

All of it is in the checkpoint, best weights included, so that a killed run decides as one that was never killed.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_sat.spec import ConfigError
from ssl_sat.training.finetune_spec import StopSpec
from ssl_sat.training.rates import Leg


class Patience:
    """The best value so far and for how many epochs there was no better one; a loss is better when it is lower."""

    def __init__(self, metric: str, min_delta: float) -> None:
        self.sign = -1.0 if metric.endswith("loss") else 1.0
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0

    def improved(self, value: float) -> bool:
        """Take in the value of an epoch. Not a number is never an improvement."""
        better = value == value and (self.best is None or self.sign * (value - self.best) > self.min_delta)
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.waited = state["best"], state["waited"]


class Supervisor(pl.Callback):
    """Early stopping and plateaus of one phase. The module's `validation_logs` are read after each validation.

    weights: the best ones on the host, where the phase restores them; every process keeps its own copy.
    """

    def __init__(self, leg: Leg, known: tuple[str, ...]) -> None:
        self.leg, self.stop = leg, leg.phase.stop
        watched = {"stop": self.stop.metric} if self.stop else {}
        if leg.schedule.name == "plateau":
            watched["schedule"] = leg.schedule.metric
        for key, metric in watched.items():
            _check_metric(f"phases.steps.{leg.name}.{key}.metric", metric, known)
        self.stopping = Patience(self.stop.metric, self.stop.min_delta) if self.stop else None
        self.plateau = Patience(leg.schedule.metric, leg.schedule.min_delta) if leg.schedule.name == "plateau" else None
        self.factor, self.stopped, self.best_epoch = 1.0, False, -1
        self.weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on."""
        return {
            "factor": self.factor,
            "stopped": self.stopped,
            "best_epoch": self.best_epoch,
            "weights": self.weights,
            "patience": [p.state() for p in (self.stopping, self.plateau) if p],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.factor, self.stopped = state_dict["factor"], state_dict["stopped"]
        self.best_epoch, self.weights = state_dict["best_epoch"], state_dict["weights"]
        watching = [p for p in (self.stopping, self.plateau) if p]
        for patience, state in zip(watching, state_dict["patience"], strict=True):
            patience.restore(state)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A phase that was killed after its early end has ended."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Decide; in all processes alike, since the values are sums over all of them."""
        if trainer.sanity_checking or not module.validation_logs:
            return
        values = {name: float(value) for name, value in module.validation_logs.items()}
        if self.stopping and self.stop:
            self._judge(self.stopping, self.stop, values[self.stop.metric], trainer, module)
        if self.plateau and not self.plateau.improved(values[self.leg.schedule.metric]):
            self._lower(self.plateau, trainer)

    def _judge(self, stopping: Patience, stop: StopSpec, value: float, trainer: pl.Trainer, module: Any) -> None:
        if stopping.improved(value):
            self.best_epoch = trainer.current_epoch
            if stop.restore_best:
                state = module.model.state_dict()
                self.weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        elif stop.patience is not None and stopping.waited >= stop.patience:
            self.stopped = trainer.should_stop = True

    def _lower(self, plateau: Patience, trainer: pl.Trainer) -> None:
        """Lower the rate at once: the scheduler itself speaks after the next step only."""
        schedule = self.leg.schedule
        if plateau.waited < schedule.patience:
            return
        plateau.waited = 0
        self.factor = max(self.factor * schedule.gamma, schedule.floor)
        for config in trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, base, factor in rates:
                group["lr"] = base * factor(scheduler.last_epoch)

    def restore(self, model: torch.nn.Module) -> bool:
        """Give the model the weights of the best epoch, where they were kept."""
        if self.weights:
            model.load_state_dict(self.weights)
        return bool(self.weights)


def _check_metric(where: str, metric: str, known: tuple[str, ...]) -> None:
    if not known:
        raise ConfigError(f"{where}={metric}: the data has no validation patches; give it a val split, or leave it out")
    if metric not in known:
        raise ConfigError(f"{where}={metric}: what validation measures is {', '.join(known)}")
