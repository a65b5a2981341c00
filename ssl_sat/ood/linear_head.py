"""Dropout in front of the last linear layer: all passes from the inputs of that layer, without the network.

With x the plain inputs (N, P), m the mask of a pass and W, b the layer:

    folded           logits = W (m * x / (1 - p)) + b, with the very masks of the general path; exact
    moment_matched   logits ~ Normal(W x + b, p / (1 - p) sum_d x_d^2 W_d W_d^T), the mean and covariance that the masks
                     give, drawn as a Gaussian: an approximation (the central limit theorem over P), for large T

The sum of many masked terms is nearly Gaussian (Wang & Manning 2013, 'Fast dropout training', section 2), but a class
that rests on a few large terms is not.
"""

# N samples, P inputs, K classes, T passes

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.ood.contract import McResult, NotApplicable, PredictionsLike
from ssl_sat.ood.keyed_dropout import first_call, keep_mask, keys_of, masks_in_one_go, uniform_bits
from ssl_sat.ood.pass_statistics import McAccumulator, concatenate
from ssl_sat.ood.spec import McDropoutSpec

_CELLS = 2**20  # masked inputs held at once on a CPU, 4 MiB
_ROWS = 1024  # samples of one batch when predictions are read from disk
_NORMAL_CALL = 0x5BD1E995  # keeps the bits of Gaussian draws apart from those of masks


def folded(
    x_NP: Tensor, rows_N: Tensor, weight_KP: Tensor, bias_K: Tensor, p: float, seed: int, passes: range
) -> Tensor:
    """Logits (T, N, K) of these passes, with the masks that a dropout of rate p on x gets as the only one."""
    keys = keys_of(seed, _each(passes, rows_N), rows_N.repeat(len(passes)))
    if masks_in_one_go(x_NP, p):
        from ssl_sat.ood.mask_kernel import drop

        masked_BP = drop(x_NP, *first_call(keys), p)
    else:
        repeated_BP = x_NP.repeat(len(passes), 1)
        masked_BP = repeated_BP * (keep_mask(repeated_BP, *keys, p, channels=False).to(x_NP.dtype) / (1 - p))
    return F.linear(masked_BP, weight_KP, bias_K).view(len(passes), len(x_NP), -1)


def passes_at_once(x_NP: Tensor) -> int:
    """How many passes make a call of `folded` that stays in the cache; on a GPU, one that fills it."""
    cells = _CELLS if x_NP.device.type == "cpu" else 64 * _CELLS
    return max(1, cells // max(1, x_NP.numel()))


class MomentMatched:
    """Gaussian logits with the mean and covariance that the masks give; one eigendecomposition a sample."""

    def __init__(self, x_NP: Tensor, rows_N: Tensor, weight_KP: Tensor, bias_K: Tensor, p: float, seed: int) -> None:
        x_NP, weight_KP = x_NP.double(), weight_KP.double()
        self.rows_N, self.seed, classes = rows_N, seed, len(weight_KP)
        self.mean_NK = x_NP @ weight_KP.T + bias_K.double()
        pairs_QP = (weight_KP[:, None] * weight_KP[None]).reshape(classes**2, -1)
        covariance_NKK = (x_NP.square() @ pairs_QP.T).view(-1, classes, classes) * (p / (1 - p))
        values_NK, vectors_NKK = torch.linalg.eigh(covariance_NKK)
        self.root_NKK = vectors_NKK * values_NK.clamp(min=0).sqrt()[:, None]

    def logits(self, passes: range) -> Tensor:
        """Draws (T, N, K), float64; a draw depends on (seed, pass, sample) alone."""
        classes = self.mean_NK.shape[1]
        keys = keys_of(self.seed, _each(passes, self.rows_N), self.rows_N.repeat(len(passes)))
        normal_TNK = _normal(*keys, classes).view(len(passes), len(self.rows_N), classes)
        return self.mean_NK + torch.einsum("nkj,tnj->tnk", self.root_NKK, normal_TNK)


def sample_last_layer(predictions: PredictionsLike, spec: McDropoutSpec) -> McResult:
    """Dropout passes from stored predictions alone: other masks, another T, without running the network.

    Raises NotApplicable unless the only dropout of the network stands in front of the last linear layer.
    """
    last, x_NP = predictions.last, predictions.penultimate_NP
    if last is None or x_NP is None or last.dropout is None:
        raise NotApplicable(
            "these predictions do not hold what dropout passes need: the network has other dropouts than one in front"
            " of its last linear layer. Run them with the network (mc.passes of ood_eval), or use head.kind=linear."
        )
    weight_KP, bias_K = (torch.from_numpy(array.copy()) for array in (last.weight_KP, last.bias_K))
    parts = []
    for start in range(0, len(x_NP), _ROWS):
        x = torch.tensor(x_NP[start : start + _ROWS])
        rows_N = torch.tensor(predictions.rows_N[start : start + _ROWS])
        accumulator = McAccumulator()
        add_passes(accumulator, x, rows_N, weight_KP, bias_K, last.dropout, spec.seed, range(spec.passes), spec.method)
        parts.append(accumulator.result(rows_N, spec.seed, spec.method))
    return concatenate(parts)


def add_passes(
    accumulator: McAccumulator, x_NP: Tensor, rows_N: Tensor, weight_KP: Tensor, bias_K: Tensor, p: float, seed: int,
    passes: range, method: str,
) -> None:  # fmt: skip
    """Feed passes of one batch, a few at a time, to the running statistics."""
    drawn = MomentMatched(x_NP, rows_N, weight_KP, bias_K, p, seed) if method == "moment_matched" else None
    step = passes_at_once(x_NP)
    for start in range(passes.start, passes.stop, step):
        some = range(start, min(start + step, passes.stop))
        exact = drawn is None
        accumulator.add(
            folded(x_NP, rows_N, weight_KP, bias_K, p, seed, some) if exact else drawn.logits(some)  # type: ignore[union-attr]
        )


def _each(passes: range, rows_N: Tensor) -> Tensor:
    return torch.arange(passes.start, passes.stop, device=rows_N.device).repeat_interleave(len(rows_N))


def _normal(low_B: Tensor, high_B: Tensor, width: int) -> Tensor:
    """Standard normal numbers (B, width) by Box and Muller, float64, from 32 bits each."""
    half = (width + 1) // 2
    bits_BW = uniform_bits(low_B + _NORMAL_CALL, high_B, 2 * half).double()
    uniform_BW = (bits_BW + 2**31 + 0.5) / 2**32
    radius_BH, angle_BH = (-2 * uniform_BW[:, :half].log()).sqrt(), 2 * math.pi * uniform_BW[:, half:]
    return torch.cat([radius_BH * angle_BH.cos(), radius_BH * angle_BH.sin()], dim=1)[:, :width]
