"""Focal loss (Lin et al. 2017, equations 4 and 5), for one class a patch and for several.

Legend: N patches, K classes, p the probability of the class in question.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.spec import ConfigError
from ssl_sat.training.imbalance.balance import Balance, Labels
from ssl_sat.training.imbalance.spec import FocalSpec
from ssl_sat.training.imbalance.weights import inverse_frequency
from ssl_sat.training.task import Task


class FocalLoss:
    """Sum over what may be true of target * weight * (1 - p) ** gamma * -log p.

    What may be true: the K classes, by softmax; or with several labels yes and no of each class, by sigmoid, then the
    mean over the classes. Two classes by softmax are the paper's sigmoid of the difference of their logits.
    """

    def __init__(self, gamma: float, yes_K: Tensor, no_K: Tensor) -> None:
        self.gamma, self.yes_K, self.no_K = gamma, yes_K, no_K

    def __call__(self, logits_NK: Tensor, targets: Tensor, task: Task, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of each patch (N,)."""
        self.yes_K, self.no_K = self.yes_K.to(logits_NK.device), self.no_K.to(logits_NK.device)
        logits_NK, target_NK = logits_NK.float(), task.dense(targets)
        if task.is_multilabel:
            target_NK = target_NK * (1 - label_smoothing) + label_smoothing / 2
            yes_NK = self._term(F.logsigmoid(logits_NK)) * target_NK * self.yes_K
            no_NK = self._term(F.logsigmoid(-logits_NK)) * (1 - target_NK) * self.no_K
            return (yes_NK + no_NK).mean(1)
        target_NK = target_NK * (1 - label_smoothing) + label_smoothing / len(task.classes)
        return (self._term(F.log_softmax(logits_NK, 1)) * target_NK * self.yes_K).sum(1)

    def _term(self, log_p: Tensor) -> Tensor:
        """(1 - p) ** gamma * -log p, with a gradient also where p is 1."""
        rest = (-torch.expm1(log_p)).clamp_min(1e-12)
        return -log_p * (rest**self.gamma if self.gamma else torch.ones_like(rest))


def build(spec: FocalSpec, *, labels: Labels, task: Task, seed: int) -> Balance:
    """Focal loss with its weights; ConfigError for an alpha that has no meaning."""
    yes_K = torch.ones(len(task.classes))
    no_K = torch.ones(len(task.classes))
    if spec.alpha == "inverse":
        counts_K = labels.counts(task)
        rest_K = len(labels.rows_M) - counts_K
        yes_K = torch.as_tensor(rest_K / counts_K if task.is_multilabel else inverse_frequency(counts_K)).float()
    elif spec.alpha is not None:
        if not 0 < spec.alpha < 1:
            raise ConfigError(f"imbalance.alpha={spec.alpha:g} is a share: choose it between 0 and 1, or 'inverse'")
        if task.is_multilabel:
            yes_K, no_K = yes_K * spec.alpha, no_K * (1 - spec.alpha)
        elif len(task.classes) == 2:
            yes_K = torch.tensor([1 - spec.alpha, spec.alpha])
        else:
            raise ConfigError(
                f"imbalance.alpha={spec.alpha:g} is for two classes or several labels a patch, and here are "
                f"{len(task.classes)} classes; choose imbalance.alpha=inverse"
            )
    return Balance(labels.rows_M, FocalLoss(spec.gamma, yes_K, no_K))
