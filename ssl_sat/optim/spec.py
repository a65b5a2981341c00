"""What an optimiser is configured by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_sat.spec import Spec


class OptimSpec(Spec):
    """One optimiser with its rate at `base_batch` patches a step, over all devices.

    scale: how the peak rate follows the global batch B: `linear` lr * B / base_batch, `sqrt` lr * sqrt(B / base_batch),
    `none` lr whatever B is. warmup_epochs: linear warm-up, then a cosine to zero at the last step.
    weight_decay never touches norms, biases and position tokens; betas are Adam's, momentum that of SGD and LARS,
    trust that of LARS. `adam` adds the decay to the gradient (L2), `adamw` decouples it.
    """

    name: Literal["adamw", "adam", "sgd", "lars"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    base_batch: int = Field(256, gt=0)
    scale: Literal["linear", "sqrt", "none"] = "linear"
    weight_decay: float = Field(1e-4, ge=0)
    warmup_epochs: float = Field(10, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    trust: float = Field(1e-3, gt=0)
