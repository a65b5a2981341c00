"""What several passes of a network say of a sample, streamed: entropies, mutual information, variance.

l_t = log_softmax(logits_t); log p = logsumexp_t(l_t) - log T; H = -sum p log p; E = mean_t H(p_t); MI = H - E.
All in float64; memory is O(N K), whatever T. MI is biased low for small T, so T is reported beside it.
"""

# N samples, K classes, T passes

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_sat.ood.contract import McResult
from ssl_sat.ood.score import BadScores


class McAccumulator:
    """Running statistics over passes of one batch of samples; add logits (T', N, K) as they come."""

    def __init__(self) -> None:
        self.passes = 0
        self.spread = 0.0  # largest difference of a logit from the first pass, relative to the largest logit

    def add(self, logits_TNK: Tensor) -> None:
        """Take in some passes. BadScores if a logit is NaN or infinite."""
        if not bool(torch.isfinite(logits_TNK).all()):
            raise BadScores(
                "a logit of a dropout pass is not finite. Look for NaN in the images, or a training that diverged."
            )
        logits_TNK = (
            logits_TNK.cpu() if logits_TNK.device.type == "mps" else logits_TNK
        ).double()  # mps has no float64
        log_p_TNK = torch.log_softmax(logits_TNK, dim=-1)
        p_TNK = log_p_TNK.exp()
        if not self.passes:
            self._first_NK, self._shift_NK = logits_TNK[0], p_TNK[0]
            self._log_sum_NK = torch.full_like(p_TNK[0], -math.inf)
            self._entropy_N = torch.zeros_like(p_TNK[0, :, 0])
            self._sum_NK, self._squares_NK = torch.zeros_like(p_TNK[0]), torch.zeros_like(p_TNK[0])
        self._log_sum_NK = torch.logaddexp(self._log_sum_NK, log_p_TNK.logsumexp(dim=0))
        self._entropy_N = self._entropy_N - (p_TNK * log_p_TNK).sum(dim=(0, 2))
        shifted_TNK = p_TNK - self._shift_NK  # about the first pass, so that the variance does not cancel
        self._sum_NK = self._sum_NK + shifted_TNK.sum(dim=0)
        self._squares_NK = self._squares_NK + shifted_TNK.square().sum(dim=0)
        largest = float(logits_TNK.abs().max()) if logits_TNK.numel() else 0.0
        gap = float((logits_TNK - self._first_NK).abs().max()) if logits_TNK.numel() else 0.0
        self.spread = max(self.spread, gap / max(largest, 1e-30))
        self.passes += len(logits_TNK)

    def result(self, rows_N: Tensor, seed: int, method: str = "exact") -> McResult:
        """Return the statistics; asserts 0 <= MI <= min(H, ln K, ln T) up to 1e-12."""
        passes, classes = self.passes, self._log_sum_NK.shape[1]
        log_p_NK = self._log_sum_NK - math.log(passes)
        predictive_N = -(log_p_NK.exp() * log_p_NK).sum(dim=1)
        expected_N = self._entropy_N / passes
        mutual_N = predictive_N - expected_N
        bound_N = predictive_N.clamp(max=min(math.log(classes), math.log(passes)))
        assert bool(((mutual_N >= -1e-12) & (mutual_N <= bound_N + 1e-12)).all()), "mutual information out of bounds"
        variance_NK = (self._squares_NK / passes - (self._sum_NK / passes).square()).clamp(min=0)
        return McResult(
            log_p_NK=_float64(log_p_NK),
            predictive_entropy_N=_float64(predictive_N),
            expected_entropy_N=_float64(expected_N),
            mutual_information_N=_float64(mutual_N),
            pass_variance_N=_float64(variance_NK.mean(dim=1)),
            rows_N=rows_N.cpu().numpy().astype(np.int64),
            passes=passes,
            seed=seed,
            method=method,
        )


def concatenate(parts: list[McResult]) -> McResult:
    """Join results of batches, in order."""
    values = {field.name: [getattr(part, field.name) for part in parts] for field in fields(McResult)}
    joined: dict[str, Any] = {
        name: np.concatenate(each) if isinstance(each[0], np.ndarray) else each[0] for name, each in values.items()
    }
    return McResult(**joined)


def _float64(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().astype(np.float64)
