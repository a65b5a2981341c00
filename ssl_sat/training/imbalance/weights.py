"""Losses weighted by class.

Legend: n patches of a class, N patches, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.training.imbalance.balance import Balance, Labels
from ssl_sat.training.imbalance.spec import EffectiveNumberSpec, NoneSpec, WeightedSpec
from ssl_sat.training.task import Task

Weights = NDArray[np.float64]


def inverse_frequency(counts_K: NDArray[Any], power: float = 1.0) -> Weights:
    """n ** -power, scaled so that the mean over the patches is 1; power 1 is N / (K n)."""
    return _mean_one(counts_K.astype(np.float64) ** -power, counts_K)


def effective(counts_K: NDArray[Any], beta: float) -> Weights:
    """(1 - beta) / (1 - beta ** n) (Cui et al. 2019, equation 4), scaled so that the mean over the patches is 1."""
    return _mean_one(1 / effective_numbers(counts_K, beta), counts_K)


def effective_numbers(counts_K: NDArray[Any], beta: float) -> Weights:
    """(1 - beta ** n) / (1 - beta): 1 for beta 0, n in the limit of beta 1."""
    if beta == 0:
        return np.ones(len(counts_K))
    return -np.expm1(counts_K * np.log(beta)) / (1 - beta)


def _mean_one(weights_K: Weights, counts_K: NDArray[Any]) -> Weights:
    return weights_K * counts_K.sum() / (weights_K * counts_K).sum()


class WeightedLoss:
    """Cross-entropy with a weight per class, or binary cross-entropy with one on the yes of each class.

    The mean over a batch is taken over its patches and not over their weights, as torch does: so it is an unbiased
    estimate of the weighted loss over the training set, whatever the batch or the device's share of it.
    """

    def __init__(self, weights_K: Weights) -> None:
        self.weights_K = torch.as_tensor(weights_K, dtype=torch.float32)

    def __call__(self, logits_NK: Tensor, targets: Tensor, task: Task, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of each patch (N,)."""
        self.weights_K = self.weights_K.to(logits_NK.device)
        logits_NK = logits_NK.float()
        if not task.is_multilabel:
            kwargs: dict[str, Any] = {"weight": self.weights_K, "label_smoothing": label_smoothing}
            return F.cross_entropy(logits_NK, targets, reduction="none", **kwargs)
        smooth_NK = targets * (1 - label_smoothing) + label_smoothing / 2
        kwargs = {"pos_weight": self.weights_K, "reduction": "none"}
        return F.binary_cross_entropy_with_logits(logits_NK, smooth_NK, **kwargs).mean(1)


def none(spec: NoneSpec, *, labels: Labels, task: Task, seed: int) -> Balance:
    """Nothing is done."""
    return Balance(labels.rows_M)


def weighted(spec: WeightedSpec, *, labels: Labels, task: Task, seed: int) -> Balance:
    """Weights by inverse frequency."""
    counts_K = labels.counts(task)
    if task.is_multilabel:
        rest_K = np.maximum(len(labels.rows_M) - counts_K, 1)
        return Balance(labels.rows_M, WeightedLoss((rest_K / counts_K) ** spec.power))
    return Balance(labels.rows_M, WeightedLoss(inverse_frequency(counts_K, spec.power)))


def effective_number(spec: EffectiveNumberSpec, *, labels: Labels, task: Task, seed: int) -> Balance:
    """Weights by effective number; with several labels the quotient of those of no and yes."""
    counts_K = labels.counts(task)
    if task.is_multilabel:
        rest_K = np.maximum(len(labels.rows_M) - counts_K, 1)
        quotient_K = effective_numbers(rest_K, spec.beta) / effective_numbers(counts_K, spec.beta)
        return Balance(labels.rows_M, WeightedLoss(quotient_K))
    return Balance(labels.rows_M, WeightedLoss(effective(counts_K, spec.beta)))
