"""What an encoder saw in the same patches before it was trained, after pretraining, after fine-tuning.

    for state in before_tuning(spec, pack, inputs):          # untrained, and the start of fine-tuning where it differs
        features_ND = features(state, [(pack, rows), (other, rows)], device, batch_size)

Untrained is the fine-tuned model's own architecture for its own bands, with fresh weights by the seed of the run that
came first and the normalisation of the start: what can be told apart without any learning.
"""  # fmt: skip

# N patches, D features

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_sat.artifact import Artifact
from ssl_sat.data.packed import Pack
from ssl_sat.evaluation.ood_sets import plain_views
from ssl_sat.evaluation.packs import batches
from ssl_sat.training import setup
from ssl_sat.training.model_io import ModelCard, build_encoder


@dataclass(frozen=True, eq=False)
class State:
    """An encoder at one moment; `label` heads its map."""

    name: str
    label: str
    encoder: Any
    card: ModelCard


def before_tuning(spec: Any, pack: Pack, inputs: Mapping[str, Artifact]) -> list[State]:
    """The states before fine-tuning by `spec` (its own spec and inputs): one from scratch, two from other starts."""
    encoder, card = setup.starting_encoder(spec, pack, inputs)
    first = inputs["init"].config["seed"] if "init" in inputs else spec.seed
    name = str(card.encoder.get("model") or card.encoder["name"])
    if "init" not in inputs and spec.init == "scratch":
        return [State("untrained", f"untrained {name}", encoder, card)]
    fresh = State("untrained", f"untrained {name}", build_encoder(card, first), card)
    return [fresh, State("start", f"before fine-tuning: {setup.initialisation(spec, inputs)}", encoder, card)]


@torch.inference_mode()
def features(
    state: State, parts: Sequence[tuple[Pack, NDArray[np.int64]]], device: torch.device, batch_size: int
) -> NDArray[np.float32]:
    """Features (N, D) of rows of packs, one after the other; centre views, eval mode."""
    encoder = state.encoder.to(device).eval()
    found = []
    for pack, rows in parts:
        views = plain_views(pack, state.card, 0)
        for x_NCHW, _, _ in batches(pack, rows, views.center, batch_size, device):
            found.append(encoder(x_NCHW).float().cpu().numpy())
    return np.concatenate(found)
