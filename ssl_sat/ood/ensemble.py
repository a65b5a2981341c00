"""Deep ensembles (Lakshminarayanan et al. 2017): networks of one recipe and several seeds, on the same samples.

The members take the place of dropout passes: the mean softmax, its entropy, and the mutual information between label
and member.
"""

# N samples, K classes, M members

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_sat.ood.contract import McResult
from ssl_sat.ood.pass_statistics import McAccumulator
from ssl_sat.spec import UserError


def ensemble_statistics(logits: Sequence[NDArray[Any]], rows_N: NDArray[Any]) -> McResult:
    """Statistics of M >= 2 networks' logits (N, K) of the same samples; `passes` is M, the seed has no meaning."""
    if len(logits) < 2:
        raise UserError(
            f"an ensemble needs at least 2 networks, there {'is' if len(logits) == 1 else 'are'} {len(logits)}"
        )
    if len({logits_NK.shape for logits_NK in logits}) != 1:
        raise ValueError(f"logits of the members differ in shape: {[logits_NK.shape for logits_NK in logits]}")
    accumulator = McAccumulator()
    for logits_NK in logits:
        accumulator.add(torch.tensor(np.asarray(logits_NK, dtype=np.float64))[None])
    return accumulator.result(torch.tensor(np.asarray(rows_N)), seed=0, method="ensemble")
