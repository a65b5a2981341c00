"""Specs of training: the Trainer, the phases of fine-tuning, where watching goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ssl_sat.spec import ConfigError, Spec, runtime


class TrainerSpec(Spec):
    """How the Trainer runs. Only the precision is science; the rest must not change the result."""

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    clip_norm: float | None = Field(None, gt=0)
    accelerator: str = runtime("auto")
    devices: int | str = runtime("auto")
    num_nodes: int = runtime(1)
    strategy: str = runtime("auto")
    threads: int | None = runtime(None)
    channels_last: bool = runtime(True)
    compile: bool = runtime(False)
    checkpoint_every_n_steps: int = runtime(200, ge=1)
    log_every_n_steps: int = runtime(10, ge=1)
    progress: bool = runtime(True)
    tensorboard: bool = runtime(True)

    @model_validator(mode="after")
    def _fused_optimisers_unscale_by_themselves(self) -> Self:
        if self.precision == "16-mixed" and self.clip_norm is not None:
            raise ValueError("trainer.clip_norm does not work with 16-mixed and fused optimisers; choose bf16-mixed")
        return self


class Phase(Spec):
    """A stretch of fine-tuning: how long, what trains, at which peak rate.

    train: 'head', 'last_stage' (the encoder's last stage and the head) or 'all'.
    """

    epochs: int = Field(ge=1)
    train: Literal["head", "last_stage", "all"]
    lr: float = Field(gt=0)


class PhasesSpec(Spec):
    """Phases in their order, each with a name of its own so that it can be overridden: `phases.steps.head.epochs=2`."""

    name: str
    steps: dict[str, Phase]

    @field_validator("steps")
    @classmethod
    def _not_empty(cls, steps: dict[str, Phase]) -> dict[str, Phase]:
        if not steps:
            raise ValueError("at least one phase is needed")
        return steps

    def science(self) -> dict[str, Any]:
        """The phases as a list, because their order decides the result."""
        return {"steps": [phase.science() for phase in self.steps.values()]}


def with_epochs(phases: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return the phases with the epochs of their only step replaced; ConfigError when there are several."""
    steps = phases.get("steps") or {}
    if len(steps) != 1:
        keys = ", ".join(f"phases.steps.{name}.epochs" for name in steps)
        raise ConfigError(f"epochs={epochs}: phases={phases.get('name')} has {len(steps)} phases; set {keys}")
    return {**phases, "steps": {name: {**step, "epochs": epochs} for name, step in steps.items()}}
