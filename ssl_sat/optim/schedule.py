"""Learning rates as pure functions of the step and of the global batch."""

from __future__ import annotations

import math
from collections.abc import Sequence


def warmup_cosine(step: int, total: int, warmup: int, peak: float, floor: float = 0.0) -> float:
    """Return the rate of optimiser step `step`, counted from 0 to `total` - 1.

    Linear from peak / warmup to peak over the first `warmup` steps, then a cosine over the remaining
    `total` - `warmup` that is at `floor` in the last step, and stays there.
    Raises ValueError unless 0 <= warmup < total.
    """
    if not 0 <= warmup < total:
        raise ValueError(f"warm-up of {warmup} steps does not fit into {total} steps")
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min((step - warmup + 1) / (total - warmup), 1.0)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def curve(
    name: str, step: int, total: int, warmup: int, *, floor: float = 0.0, gamma: float = 0.1,
    milestones: Sequence[int] = (),
) -> float:  # fmt: skip
    """Return the factor on the peak rate at step `step` of `total`: a linear warm-up, then what `name` says.

    cosine: see `warmup_cosine`. step: times gamma from each of the milestones (steps) on. constant and plateau: 1, as
    what a plateau takes off depends on the validation and not on the step.
    Raises ValueError for another name, and unless 0 <= warmup < total.
    """
    if name == "cosine":
        return warmup_cosine(step, total, warmup, 1.0, floor)
    if name not in ("constant", "plateau", "step"):
        raise ValueError(f"no curve '{name}'")
    if not 0 <= warmup < total:
        raise ValueError(f"warm-up of {warmup} steps does not fit into {total} steps")
    if step < warmup:
        return (step + 1) / warmup
    return gamma ** sum(step >= milestone for milestone in milestones) if name == "step" else 1.0


def scaled_lr(lr: float, global_batch: int, base_batch: int = 256, scale: str = "linear") -> float:
    """Return the peak rate at a global batch; `lr` is that of `base_batch`.

    SimCLR (Chen et al. 2020, section 2.2 and appendix B.1): LARS with 0.3 * B / 256, or 0.075 * sqrt(B), which is
    lr = 1.2 at base_batch = 256 with `sqrt`.
    """
    ratio = global_batch / base_batch
    if scale == "linear":
        return lr * ratio
    if scale == "sqrt":
        return lr * math.sqrt(ratio)
    if scale == "none":
        return lr
    raise ValueError(f"scale is linear, sqrt or none, not {scale!r}")
