"""Specs of training: the Trainer, its loggers, what is watched."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from ssl_sat.data import SOURCES
from ssl_sat.data.spec import DataSpec
from ssl_sat.spec import Spec, runtime


class LoggerSpec(Spec):
    """One of Lightning's loggers by name (wandb, mlflow, comet, neptune), or any by `class_path`, with its arguments.

    `trainer.loggers=[wandb]` is short for `[{name: wandb}]`.
    """

    name: Literal["wandb", "mlflow", "comet", "neptune"] | None = None
    class_path: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.name is None) == (self.class_path is None):
            raise ValueError("a logger needs a name (wandb, mlflow, comet, neptune) or a class_path, and not both")
        return self


class TrainerSpec(Spec):
    """How the Trainer runs. Precision, clipping and sync_batchnorm are science; the rest must not change the result.

    sync_batchnorm: statistics of batch norm over the global batch, as on one device; false takes each device's share.
    validate_every_n_epochs: of fine-tuning; many epochs over few labels spend their time validating otherwise.
    loggers: beside TensorBoard and the CSV, which are always written.
    """

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    clip_norm: float | None = Field(None, gt=0)
    sync_batchnorm: bool = True
    accelerator: str = runtime("auto")
    devices: int | str = runtime("auto")
    num_nodes: int = runtime(1)
    strategy: str = runtime("auto")
    threads: int | None = runtime(None)
    data_tier: Literal["auto", "device", "pinned", "map"] = runtime("auto")
    data_ahead: int = runtime(4, ge=1, le=64)
    channels_last: bool = runtime(True)
    compile: bool = runtime(False)
    checkpoint_every_n_steps: int = runtime(200, ge=1)
    log_every_n_steps: int = runtime(10, ge=1)
    validate_every_n_epochs: int = runtime(1, ge=1)
    progress: bool = runtime(True)
    tensorboard: bool = runtime(True)
    loggers: tuple[LoggerSpec, ...] = runtime(())

    @model_validator(mode="after")
    def _fused_optimisers_unscale_by_themselves(self) -> Self:
        if self.precision == "16-mixed" and self.clip_norm is not None:
            raise ValueError("trainer.clip_norm does not work with 16-mixed and fused optimisers; choose bf16-mixed")
        return self


class WatchSpec(Spec):
    """What is watched while an encoder is pretrained; nothing of it changes a weight, so all of it is runtime.

    data, pack: a labelled set, for the online nearest-neighbour and linear probes; none by default.
    every_n_epochs: how often, beside before the first epoch and after the last.
    fit, score: splits of the labelled set that the probes are fitted on and scored on.
    max_fit, max_score: patches of them, a seeded choice, equal from one evaluation to the next.
    rankme: training patches whose effective rank (RankMe) is measured, a seeded choice; 0 leaves it out.
    """

    data: Annotated[SerializeAsAny[DataSpec], BeforeValidator(SOURCES.parse)] | None = runtime(None)
    pack: str | None = runtime(None)
    every_n_epochs: int = runtime(1, ge=1)
    fit: str = runtime("train")
    score: str = runtime("val")
    max_fit: int = runtime(2000, ge=2)
    max_score: int = runtime(1000, ge=1)
    k: int = runtime(20, ge=1)
    rankme: int = runtime(512, ge=0)

    registries: ClassVar = {"data": SOURCES}
