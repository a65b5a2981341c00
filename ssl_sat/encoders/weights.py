"""Weights that others trained, as a file: whether a start is one, its digest, its name. Torch-free."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssl_sat.artifact import sha256_file
from ssl_sat.spec import ConfigError, WeightsAbsent

NAMED = ("scratch", "imagenet")
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt.tar", ".pth.tar")


def is_file(init: str) -> bool:
    """Whether a start is a file of weights and not a name or an artifact; by its suffix, the file may be absent."""
    return init not in NAMED and init.lower().endswith(SUFFIXES) and not Path(init).expanduser().is_dir()


def is_new(init: str) -> bool:
    """Whether a start brings no artifact: fresh weights, ImageNet's or a file's."""
    return init in NAMED or is_file(init)


def file_of(spec: Any) -> Path | None:
    """The file that a stage starts from: `init=<file>`, or `weights=<file>` beside `init=imagenet`."""
    if spec.weights is not None and spec.init != "imagenet":
        raise ConfigError("weights=<file> goes with init=imagenet; a file of other weights is init=<file>")
    chosen = spec.weights if spec.init == "imagenet" else spec.init if is_file(spec.init) else None
    return None if chosen is None else Path(chosen).expanduser()


def digest(file: Path) -> str:
    """Sha256 of the file, hex; WeightsAbsent where there is none."""
    if not file.is_file():
        raise WeightsAbsent(
            f"weights absent: no file {file}. Fetch it from where it is published, or choose init=scratch."
        )
    facts = os.stat(file)
    return _digest(file.resolve(), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=32)
def _digest(file: Path, size: int, mtime_ns: int) -> str:
    """A plan asks for the digest of one file many times; size and time of change say whether it is still the same."""
    return sha256_file(file)


def science(spec: Any, own: dict[str, Any]) -> dict[str, Any]:
    """What decides the result of a stage's start: contents of a file, never its path; an artifact is an input."""
    kept = {name: value for name, value in own.items() if name not in ("init_bands", "init_units")}
    file = file_of(spec)
    if file is not None:
        return {**kept, "init": "weights", "init_weights": _identity(spec, digest(file))}
    if spec.init == "imagenet" and spec.init_units is not None:
        return {**kept, "init_weights": _identity(spec, None)}
    return {**kept, "init": spec.init if spec.init in NAMED else "artifact"}


def _identity(spec: Any, sha256: str | None) -> dict[str, Any]:
    bands = None if spec.init_bands is None else list(spec.init_bands)
    return {"sha256": sha256, "bands": bands, "units": spec.init_units, "imagenet": spec.init == "imagenet"}


def label(spec: Any) -> str:
    """The start in an artifact's name: 'scratch', 'imagenet', or 'weights_' and eight digits of the file's digest."""
    file = file_of(spec)
    return spec.init if file is None else f"weights_{digest(file)[:8]}"
