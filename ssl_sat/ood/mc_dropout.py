"""Monte-Carlo dropout (Gal & Ghahramani 2016): T passes with dropout active, and nothing else in training mode.

l_t = log_softmax(logits_t); log p = logsumexp_t(l_t) - log T; H = -sum p log p; E = mean_t H(p_t); MI = H - E.
All in float64, streamed over passes: memory is O(N K). MI is biased low for small T, so T
is reported beside it.
"""

# N samples, D features, K classes, T dropout passes, B rows of a batch (one per sample and pass)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ssl_sat.ood.contract import McResult
from ssl_sat.ood.keyed_dropout import KeyedDropout, frozen_eval, norm_buffers
from ssl_sat.spec import UserError

_HEAD_ROWS = 16_384  # rows in one call of the head, when passes are batched
_SAME = 1e-5  # passes that differ by less than this part of the largest logit count as identical


class McAccumulator:
    """Running statistics over passes of one batch of samples; add logits (T', N, K) as they come."""

    def __init__(self) -> None:
        self.passes = 0
        self.spread = 0.0  # largest difference of a logit from the first pass, relative to the largest logit

    def add(self, logits_TNK: Tensor) -> None:
        """Take in some passes. Raises ValueError if a logit is NaN or infinite."""
        if not bool(torch.isfinite(logits_TNK).all()):
            raise ValueError("a logit of a dropout pass is not finite")
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

    def result(self, rows_N: Tensor, seed: int) -> McResult:
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
        )


def mc_dropout(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    passes: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> McResult:
    """Run `passes` dropout passes over batches of (x_NCHW, rows_N) and return their statistics in batch order.

    `model(x) -> logits_NK`. When the model has `features(x)` and `head(h)`, and no dropout is active in the
    features, these are computed once and only the head is repeated, many passes in one call. Raises UserError
    when no dropout is active; RuntimeError when a running statistic changed or all passes were identical.
    """
    if passes < 2:
        raise UserError(f"mc.passes={passes}: Monte-Carlo dropout needs at least 2 passes")
    before = norm_buffers(model)
    mode, parts, spread, split = KeyedDropout(seed), [], 0.0, None
    with torch.no_grad(), frozen_eval(model):
        for x_NCHW, rows_N in batches:
            x_NCHW, rows_N = x_NCHW.to(device), rows_N.to(device)
            if split is None:
                split = _has_clean_trunk(model, x_NCHW, rows_N, mode)
            accumulator = _passes(model, x_NCHW, rows_N, passes, mode, split)
            spread = max(spread, accumulator.spread)
            parts.append(accumulator.result(rows_N, seed))
    if not parts:
        raise ValueError("mc_dropout got no batches")
    _check_buffers(before, norm_buffers(model))
    if spread < _SAME:
        raise RuntimeError(f"all {passes} dropout passes gave the same logits: the dropout does not reach the output")
    return concatenate(parts)


def _passes(
    model: nn.Module, x_NCHW: Tensor, rows_N: Tensor, passes: int, mode: KeyedDropout, split: bool
) -> McAccumulator:
    run: Callable[[Tensor], Tensor] = model.head if split else model  # type: ignore[assignment]
    base = model.features(x_NCHW) if split else x_NCHW  # type: ignore[operator]
    per_call = max(1, min(passes, _HEAD_ROWS // max(1, len(base)))) if split else 1
    accumulator = McAccumulator()
    for start in range(0, passes, per_call):
        count = min(per_call, passes - start)
        passes_B = torch.arange(start, start + count, device=rows_N.device).repeat_interleave(len(rows_N))
        mode.at(passes_B, rows_N.repeat(count))
        with mode:
            logits_BK = run(base.repeat(count, *[1] * (base.ndim - 1)))
        accumulator.add(logits_BK.reshape(count, len(rows_N), -1))
    return accumulator


def _has_clean_trunk(model: nn.Module, x_NCHW: Tensor, rows_N: Tensor, mode: KeyedDropout) -> bool:
    """Count the active dropouts of one pass; True if features and head can be run apart and the features have none."""
    passes_N = torch.zeros_like(rows_N)
    mode.at(passes_N, rows_N)
    with mode:
        whole_NK = model(x_NCHW.clone())
    if mode.calls == 0:
        raise UserError(
            "no dropout is active in this model, so all Monte-Carlo passes would be equal. Train it with"
            " head.dropout > 0 or encoder.dropout > 0, or choose detectors that need no passes (msp, energy, ...)."
        )
    if not (callable(getattr(model, "features", None)) and callable(getattr(model, "head", None))):
        return False
    mode.at(passes_N, rows_N)
    with mode:
        base = model.features(x_NCHW.clone())  # type: ignore[operator]
        clean = mode.calls == 0
        split_NK = model.head(base)  # type: ignore[operator]
    return clean and bool(torch.allclose(split_NK, whole_NK, rtol=1e-4, atol=1e-5))


def _check_buffers(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    if changed:
        raise RuntimeError(
            f"{len(changed)} running statistics of normalisation layers changed during the dropout passes, the first"
            f" '{changed[0]}': a layer left eval mode, and the results depend on the test batches"
        )


def concatenate(parts: list[McResult]) -> McResult:
    """Join results of batches, in order."""
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in McResult.__dataclass_fields__
        if name not in {"passes", "seed"}
    }
    return McResult(**joined, passes=parts[0].passes, seed=parts[0].seed)


def _float64(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().astype(np.float64)
