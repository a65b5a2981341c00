"""Specs of fine-tuning: the phases, their rates, when they stop, and the mixing of patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ssl_sat.spec import ConfigError, Spec, later


class ScheduleSpec(Spec):
    """How the rate runs through a phase, as a factor on its peak, after a linear warm-up.

    cosine: half a period, at `floor` in the last step. constant. step: times `gamma` at each of the `milestones`
    (epochs of the phase; null: at one half and three quarters, He et al. 2016). plateau: times `gamma` after `patience`
    epochs in which `metric` has not improved by more than `min_delta`, not below `floor`.
    warmup_epochs: null takes optim.warmup_epochs.
    """

    name: Literal["cosine", "constant", "step", "plateau"] = "cosine"
    warmup_epochs: float | None = Field(None, ge=0)
    floor: float = Field(0.0, ge=0, lt=1)
    milestones: tuple[float, ...] | None = None
    gamma: float = Field(0.1, gt=0, lt=1)
    metric: str = "val_loss"
    patience: int = Field(5, ge=1)
    min_delta: float = Field(0.0, ge=0)


class StopSpec(Spec):
    """When a phase ends before its epochs do, and which weights it ends with.

    metric: `val_loss` (lower is better), or `val_accuracy` or whatever the task measures (higher is better).
    patience: epochs without an improvement by more than `min_delta`; null never stops.
    restore_best: go on with the weights of the best epoch; false takes those of the last.
    """

    metric: str = "val_loss"
    patience: int | None = Field(10, ge=1)
    min_delta: float = Field(0.0, ge=0)
    restore_best: bool = True


class PhaseOptions(Spec):
    """What a phase may say beside its length, what trains and its rate; `phases.shared` says it for all of them.

    k, unit: of `train: last_k`, how many stages, or layers as layer-wise decay counts them; `each` makes a phase of
    every k from 1 to all.
    freeze, unfreeze: stages, or modules and parameters within, by name; they correct what `train` says. Where both
    cover a parameter, the name that covers fewer decides.
    encoder_lr: the encoder's rate where it is not the head's, `lr`.
    layer_decay: factor on the rate from layer to layer, from the head down: the head has `lr`, the encoder's last layer
    encoder_lr * layer_decay, its first encoder_lr * layer_decay ** layers.
    schedule: of the rates; `continue` goes on along the curve of the phase before, as if both were one.
    stop: early stopping; null trains all epochs and keeps the last weights.
    batch_norm: `follow` normalises by the batch, and moves running statistics, where the layer's own weights train;
    `eval` uses the running statistics everywhere, `train` the batch's everywhere, frozen layers included.
    optimizer: `restart` begins with empty moments, `continue` with those of the phase before, where there are such.
    """

    k: int | Literal["each"] | None = later(None)
    unit: Literal["stages", "layers"] = later("stages")
    freeze: tuple[str, ...] = later(())
    unfreeze: tuple[str, ...] = later(())
    encoder_lr: float | None = later(None, gt=0)
    layer_decay: float | None = later(None, gt=0, le=1)
    schedule: ScheduleSpec | Literal["continue"] = later(ScheduleSpec())
    stop: StopSpec | None = later(None)
    batch_norm: Literal["follow", "eval", "train"] = later("follow")
    optimizer: Literal["restart", "continue"] = later("restart")

    @model_validator(mode="after")
    def _names_are_in_one_list(self) -> Self:
        both = sorted(set(self.freeze) & set(self.unfreeze))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be frozen and unfrozen at once")
        if isinstance(self.k, int) and self.k < 1:
            raise ValueError(f"k is at least 1, not {self.k}")
        return self


class Phase(PhaseOptions):
    """A stretch of fine-tuning: how long, what trains, at which peak rate.

    train: 'head'; 'last_stage' or 'last_k' (the encoder's last parts, and the head); or 'all'.
    """

    epochs: int = Field(ge=1)
    train: Literal["head", "last_stage", "last_k", "all"]
    lr: float = Field(gt=0)


class PhasesSpec(Spec):
    """Phases in their order, each with a name of its own so that it can be overridden: `phases.steps.head.epochs=2`.

    k: of the phases that train last_k and name none. shared: what holds for every phase that says nothing of its own.
    """

    name: str
    k: int | Literal["each"] | None = None
    shared: PhaseOptions = PhaseOptions()
    steps: dict[str, Phase]

    @model_validator(mode="before")
    @classmethod
    def _with_shared(cls, values: Any) -> Any:
        steps, shared = values.get("steps"), values.get("shared") or {}
        if not isinstance(steps, Mapping) or not isinstance(shared, Mapping):
            return values
        if not steps:
            raise ValueError("at least one phase is needed")
        k = values.get("k")
        return {**values, "steps": {name: _completed(step, shared, k) for name, step in steps.items()}}

    @model_validator(mode="after")
    def _first_has_nothing_to_continue(self) -> Self:
        name, first = next(iter(self.steps.items()))
        if first.optimizer == "continue" or first.schedule == "continue":
            raise ValueError(f"steps.{name} is the first phase and has nothing to continue")
        return self

    def science(self) -> dict[str, Any]:
        """The phases as a list, because their order decides the result; what they share stands in each."""
        return {"steps": [phase.science() for phase in self.steps.values()]}


def _completed(step: Any, shared: Mapping[str, Any], k: Any) -> Any:
    """A phase with what it shares with the others; its own words come first, also within schedule and stop."""
    if not isinstance(step, Mapping):
        return step
    whole = {**shared, **step}
    for name in ("schedule", "stop"):
        if isinstance(shared.get(name), Mapping) and isinstance(step.get(name), Mapping):
            whole[name] = {**shared[name], **step[name]}
    if step.get("train") == "last_k" and whole.get("k") is None:
        whole["k"] = 1 if k is None else k
    return whole


class MixSpec(Spec):
    """Pairs of patches mixed in training, with their labels.

    mixup, cutmix: alpha of Beta(alpha, alpha), from which a patch's share is drawn; 0 leaves it out. mixup blends two
    patches (Zhang et al. 2018), cutmix pastes a box of one into the other (Yun et al. 2019). probability: of a patch to
    be mixed at all; switch: of cutmix where both are on.
    """

    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    probability: float = Field(1.0, ge=0, le=1)
    switch: float = Field(0.5, ge=0, le=1)

    @property
    def on(self) -> bool:
        """Whether anything is mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def with_epochs(phases: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return the phases with the epochs of their only step replaced; ConfigError when there are several."""
    steps = phases.get("steps") or {}
    if len(steps) != 1:
        keys = ", ".join(f"phases.steps.{name}.epochs" for name in steps)
        raise ConfigError(f"epochs={epochs}: phases={phases.get('name')} has {len(steps)} phases; set {keys}")
    return {**phases, "steps": {name: {**step, "epochs": epochs} for name, step in steps.items()}}
