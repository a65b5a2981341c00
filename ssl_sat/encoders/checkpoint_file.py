"""Reading a checkpoint of others without running anything of it: safetensors, or torch's restricted unpickler."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssl_sat.spec import UserError, WeightsAbsent

# Where training scripts keep the weights, the averaged ones first: timm, Lightning, MoCo and torchvision use
# `state_dict`, DINO `teacher` (its own default, checkpoint_key), MAE `model`, SSL4EO's probes `model_state_dict`.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "teacher", "model", "model_state_dict")
CARD_KEY = "ssl_sat"  # of our own exports: the card, as JSON in the header


def read_state(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint by name and, of our own exports, their card (else empty).

    `.safetensors` holds nothing but tensors. Anything else is read by torch.load(weights_only=True), which builds
    tensors and plain containers, and refuses every other name in the pickle before it is looked up; argparse.Namespace
    (options beside the weights in MAE's and DINO's files), a plain record, is let pass.
    Raises WeightsAbsent, or UserError for a file that is refused, damaged or without weights.
    """
    if not file.is_file():
        raise WeightsAbsent(f"weights absent: no file {file}")
    state, card = _safetensors(file) if file.suffix == ".safetensors" else (_pickled(file), {})
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"{file}: {len(bad)} of {len(state)} tensors are not finite, the first '{bad[0]}'")
    return state, card


def _safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no readable safetensors file: {error}. Fetch it again.") from None
    return state, json.loads(header[CARD_KEY]) if CARD_KEY in header else {}


def _pickled(file: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(file, str(error))) from None
    except Exception as error:  # a damaged archive meets the reader in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} is no readable checkpoint: {reason}. Fetch it again.") from None
    state = _tensors(loaded)
    if not state:
        held = ", ".join(map(str, list(loaded)[:8])) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise UserError(f"{file} holds no weights by name (it holds: {held}).")
    return state


def _refusal(file: Path, error: str) -> str:
    named = re.search(r"(?:Unsupported global: )?GLOBAL ([\w.]+)", error)
    what = f"its pickle names {named[1]}" if named else "its pickle holds more than tensors and plain containers"
    return (
        f"{file} was refused: {what}, and unpickling that could run code. Nothing of it was run. Ask for the weights "
        "as .safetensors; a file that you trust you can convert where nothing can be harmed: torch.load(..., "
        "weights_only=False), then safetensors.torch.save_file(state_dict, ...)."
    )


def _tensors(loaded: Any) -> dict[str, Tensor]:
    """The mapping of names to tensors inside a checkpoint; empty where there is none."""
    if not isinstance(loaded, Mapping):
        return {}
    for name in CONTAINERS:
        inner = _tensors(loaded.get(name))
        if inner:
            return inner
    return {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
