"""Scores with a direction: higher is more out-of-distribution, and nothing else can be built.

A confidence is turned round once, inside the detector that computes it. Metrics take `Scores` only, so a
confidence cannot reach them by mistake as a bare array.
"""

# N samples

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_sat.spec import UserError


class BadScores(UserError, ValueError):
    """Scores from which nothing can be concluded: not finite, or none at all."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Out-of-distribution scores of N samples: float64 (N,), finite, higher = more out-of-distribution.

    Raises BadScores on NaN and infinity, ValueError on a wrong number of dimensions or another direction.
    """

    detector: str
    values: NDArray[np.float64]
    higher_is: Literal["ood"] = "ood"

    def __post_init__(self) -> None:
        if self.higher_is != "ood":
            raise ValueError(
                f"scores of '{self.detector}': higher_is must be 'ood', not {self.higher_is!r}; turn the values round"
                " inside the detector"
            )
        values = np.array(self.values, dtype=np.float64)  # a copy: nobody can change the scores afterwards
        if values.ndim != 1:
            raise ValueError(f"scores of '{self.detector}' must be (N,), not {values.shape}")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise BadScores(
                f"scores of '{self.detector}': {len(bad)} of {len(values)} are not finite, the first at position"
                f" {bad[0]} ({values[bad[0]]}). Look for NaN in the features, or a training that diverged."
            )
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)
