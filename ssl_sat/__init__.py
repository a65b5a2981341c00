"""ssl_sat: self-supervised pretraining and out-of-distribution evaluation for satellite imagery."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl_sat.exporting.loaded import Model

__version__ = "0.1.0"


def load(path: str | os.PathLike[str]) -> Model:
    """Load the model of an artifact (pretrain, finetune) or of an export, in eval mode; see `exporting.loaded`."""
    from ssl_sat.exporting.loaded import load_model

    return load_model(path)
