"""Where a run's values go beside history.jsonl and metrics.csv: TensorBoard, and others by configuration."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from ssl_sat.spec import ConfigError
from ssl_sat.training.spec import LoggerSpec, TrainerSpec

_NAMED = {
    "wandb": ("wandb", "WandbLogger"),
    "mlflow": ("mlflow", "MLFlowLogger"),
    "comet": ("comet_ml", "CometLogger"),
    "neptune": ("neptune", "NeptuneLogger"),
}  # name -> package, class in pytorch_lightning.loggers


def check(spec: TrainerSpec) -> None:
    """ConfigError before any work when a logger's package or class is not there."""
    for logger in spec.loggers:
        _class_of(logger)


def build(spec: TrainerSpec, out: Path, phase: str, resumed_at: int | None) -> list[Logger]:
    """TensorBoard unless it is off, then the others. What TensorBoard holds beyond the step resumed at is purged."""
    loggers: list[Logger] = []
    if spec.tensorboard:
        purge: dict[str, Any] = {} if resumed_at is None else {"purge_step": resumed_at + 1}
        loggers.append(TensorBoardLogger(out, name="tensorboard", version=phase or "run", **purge))
    return loggers + [_built(logger, out) for logger in spec.loggers]


def _built(spec: LoggerSpec, out: Path) -> Logger:
    options = dict(spec.options)
    if spec.name == "wandb":  # one run of theirs for one artifact of ours, across kills
        name = out.name.removesuffix(".partial")
        options = {"save_dir": str(out), "name": name, "id": name, "resume": "allow", **options}
    try:
        return _class_of(spec)(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"trainer.loggers: {spec.name or spec.class_path} with {options}: {error}") from error


def _class_of(spec: LoggerSpec) -> Any:
    package, name = _NAMED[spec.name] if spec.name else (str(spec.class_path).rpartition(".")[0], "")
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        hint = f" Install it (pip install {package})." if spec.name else " Write its full path, as in package.Logger."
        raise ConfigError(
            f"trainer.loggers: {spec.name or spec.class_path} needs '{package}': {error}.{hint}"
        ) from None
    if spec.name:
        module = importlib.import_module("pytorch_lightning.loggers")
    found = getattr(module, name or str(spec.class_path).rpartition(".")[2], None)
    if not (isinstance(found, type) and issubclass(found, Logger)):
        raise ConfigError(f"trainer.loggers: {spec.class_path} is no Lightning logger")
    return found
