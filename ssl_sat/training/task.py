"""What the labels of a pack ask of a network: one class a patch, or any number of them.

    task = Task.of(pack)                      # UserError when the pack cannot be learned from
    loss = task.loss(logits_NK, task.targets(batch.labels_N))
    tally += task.tally(logits_NK, targets)   # sums: add over batches and ranks, then task.measures(tally)

Two classes are the multi-class task with K = 2: softmax over two logits is the sigmoid of their difference.
"""  # fmt: skip

# N patches, K classes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.spec import UserError

if TYPE_CHECKING:
    from ssl_sat.data.packed import Pack

_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Task:
    """`multiclass`: int64 labels (N,), cross-entropy, softmax. `multilabel`: 0/1 (N, K), binary cross-entropy, sigmoid.

    Targets may be soft in both kinds, (N, K) with numbers in [0, 1], as mixing of patches makes them.
    """

    kind: Literal["multiclass", "multilabel"]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, pack: Pack) -> Task:
        """The task of a pack's labels; UserError when there are none, or one class only, or classes never trained."""
        kind = pack.manifest.label_kind
        if kind == "none":
            raise UserError(f"{pack.folder} has no labels; fine-tuning needs them. Pack with labels: data.labels=...")
        if kind == "single" and len(pack.classes) < 2:
            raise UserError(f"{pack.folder} has one class only ({', '.join(pack.classes)}); classification needs two.")
        task = cls("multilabel" if kind == "multi" else "multiclass", tuple(pack.classes))
        if kind == "single":
            _refuse_never_trained(pack, task)
        return task

    @property
    def is_multilabel(self) -> bool:
        """True when a patch can have several classes, or none."""
        return self.kind == "multilabel"

    @property
    def measure(self) -> str:
        """Name of the share in `measures` that is higher when better: 'accuracy', or 'micro_f1' for several labels."""
        return "micro_f1" if self.is_multilabel else "accuracy"

    def targets(self, labels: Tensor) -> Tensor:
        """Labels as a loader yields them, in the dtype that the losses take."""
        return labels.float() if self.is_multilabel else labels.long()

    def dense(self, targets: Tensor) -> Tensor:
        """Targets as float32 (N, K): one-hot for class numbers, soft and multi-label targets as they are."""
        return targets.float() if targets.ndim == 2 else F.one_hot(targets, len(self.classes)).float()

    def per_sample(self, logits_NK: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each sample (N,), in nats; of several labels it is the mean over the classes.

        label_smoothing: this much of the target is spread evenly, over the K classes (Szegedy et al. 2016, section 7),
        or over yes and no of each class.
        """
        logits_NK = logits_NK.float()
        if not self.is_multilabel:
            return F.cross_entropy(logits_NK, targets, label_smoothing=label_smoothing, reduction="none")
        smooth_NK = targets * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits_NK, smooth_NK, reduction="none").mean(1)

    def loss(self, logits_NK: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean of `per_sample`: a scalar."""
        return self.per_sample(logits_NK, targets, label_smoothing).mean()

    def probabilities(self, logits_NK: Tensor) -> Tensor:
        """(N, K): softmax, which sums to 1, or the sigmoid of each class."""
        return logits_NK.float().sigmoid() if self.is_multilabel else logits_NK.float().softmax(1)

    def tally(self, logits_NK: Tensor, targets: Tensor) -> Tensor:
        """Sums over the samples, float64 where the device has it: [loss, N, hits] or [loss, N, both, said, true].

        both, said, true: pairs of sample and class that are predicted (probability above 1/2) and true, predicted,
        true. Soft targets count by their largest class, or by those above 1/2.
        """
        exact = torch.float32 if logits_NK.device.type == "mps" else torch.float64
        loss = self.per_sample(logits_NK, targets).sum()
        if self.is_multilabel:
            said_NK, true_NK = logits_NK > 0, targets > 0.5
            counts = [(said_NK & true_NK).sum(), said_NK.sum(), true_NK.sum()]
        else:
            true_N = targets if targets.ndim == 1 else targets.argmax(1)
            counts = [(logits_NK.argmax(1) == true_N).sum()]
        count = torch.full_like(loss, len(logits_NK))
        return torch.stack([value.detach().to(exact) for value in (loss, count, *counts)])

    @property
    def tally_size(self) -> int:
        """Length of what `tally` returns."""
        return 5 if self.is_multilabel else 3

    def measures(self, tally: Tensor) -> dict[str, Tensor]:
        """Mean loss and the share named by `measure`, from summed tallies of at least one sample."""
        loss, count = tally[0], tally[1]
        if self.is_multilabel:
            share = 2 * tally[2] / (tally[3] + tally[4]).clamp_min(1)
        else:
            share = tally[2] / count
        return {"loss": loss / count, self.measure: share}


def _refuse_never_trained(pack: Pack, task: Task) -> None:
    """UserError where validation or test have classes that train lacks: they can never be predicted.

    With several labels a patch such rare classes are let pass, because the patch is learned by its others.
    """
    if "train" not in pack.splits:
        return
    there = {split: set(pack.labels[pack.rows(split)].tolist()) - {-1} for split in pack.splits if split in _ORDER}
    for split in ("val", "test"):
        extra = [task.classes[k] for k in sorted(there.get(split, set()) - there["train"])]
        if extra:
            raise UserError(
                f"{pack.folder}: classes of train and {split} differ: {_named(extra)} in {split}, and not in train, "
                "can never be predicted. Correct the split, or keep only the shared classes: data.classes=[...]."
            )


def _named(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
