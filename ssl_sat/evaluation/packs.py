"""A model on the patches of a pack: centre views, one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.packed import Pack
from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.spec import ConfigError


def choose_device(wanted: str) -> torch.device:
    """Return the device of a name, CUDA or else the CPU for 'auto'; ConfigError for one that is not there.

    Apple's MPS is not chosen: it has no float64, which the scores need.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={wanted}: this machine has no CUDA device; choose device=cpu or device=auto")
    return torch.device(wanted)


def batches(
    pack: Pack, rows_M: np.ndarray, view: Callable[[Any], Tensor], batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (x_NCHW, rows_N, labels_N) on the device, in the order of the rows; `view` turns groups into x."""
    for batch in PatchLoader(pack, rows_M, batch_size, device=device):
        groups = tuple(group.to(device) for group in batch.groups)
        yield view(groups), batch.rows_N.to(device), batch.labels_N.to(device)


def predict_rows(
    model: Any, views: Any, pack: Pack, rows_M: np.ndarray, *, split: str, classes: Any, batch_size: int = 256,
    device: torch.device | None = None, name: str | None = None, mc: McDropoutSpec | None = None,
    store: Path | None = None,
) -> Predictions:  # fmt: skip
    """Features and logits of the centre view of rows of a pack; `mc` and `store` as in `predict`."""
    device = device or next(model.parameters()).device
    return predict(
        model, batches(pack, rows_M, views.center, batch_size, device), device,
        dataset=name or pack.manifest.source, split=split, classes=classes, ids=pack.ids, mc=mc, store=store,
    )  # fmt: skip
