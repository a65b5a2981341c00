"""What an answer to imbalance consists of: rows, the order in which an epoch shows them, a loss.

Legend: M rows to learn from, N patches of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_sat.spec import UserError
from ssl_sat.training.task import Task


class Loss(Protocol):
    """(logits_NK, targets, task, label_smoothing) -> loss of each patch (N,); targets may be soft, (N, K)."""

    def __call__(self, logits_NK: Tensor, targets: Tensor, task: Task, label_smoothing: float = 0.0) -> Tensor:
        """Return the loss of each patch, in nats times its weight."""


@dataclass(frozen=True)
class Labels:
    """What the answers look at: the rows to learn from with their labels, (M,) class numbers or (M, K) of 0 and 1."""

    rows_M: NDArray[np.int64]
    labels: NDArray[Any]
    ids: Sequence[str]

    def counts(self, task: Task) -> NDArray[np.int64]:
        """Patches of each class (K,); UserError where a class has none."""
        if task.is_multilabel:
            counts_K = (self.labels > 0.5).sum(axis=0)
        else:
            counts_K = np.bincount(self.labels, minlength=len(task.classes))
        absent = [task.classes[k] for k in np.flatnonzero(counts_K == 0)]
        if absent:
            raise UserError(
                f"imbalance: no training patch is of {', '.join(absent)}, so that no weight follows. Take more patches "
                "(subset=...), fewer classes (data.classes=...), or imbalance=none."
            )
        return counts_K.astype(np.int64)


def plain(logits_NK: Tensor, targets: Tensor, task: Task, label_smoothing: float = 0.0) -> Tensor:
    """The task's own loss."""
    return task.per_sample(logits_NK, targets, label_smoothing)


@dataclass(frozen=True)
class Balance:
    """An answer to imbalance. rows_M: what is learned from. loss: of each patch.

    draw: epoch -> rows in the order in which it shows them, equally many every epoch and the same in every process;
    None for a permutation of rows_M. repeats: whether a row may stand in an epoch more than once.
    """

    rows_M: NDArray[np.int64]
    loss: Loss = plain
    draw: Callable[[int], NDArray[np.int64]] | None = None
    repeats: bool = False

    @property
    def epoch_size(self) -> int:
        """Patches that an epoch shows."""
        return len(self.rows_M) if self.draw is None else len(self.draw(0))
