"""A check of a score's direction without any OOD sample: wrong predictions ought to rank above right ones.

A score turned round, or one that says nothing, shows on the validation split of the model's own data, before any OOD
data is looked at. The number is the AUROC of misclassification detection (Hendrycks & Gimpel 2017, section 3.1). It is
a demand on scores of the logits and of dropout passes; a distance in feature space need not know about mistakes.
"""

# N samples, K classes

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.delong import Interval, delong
from ssl_sat.ood.metrics import SUSPECT_ORIENTATION
from ssl_sat.ood.score import Scores

OF_LOGITS = (
    "msp", "entropy", "energy", "max_logit", "gen", "mutual_information", "predictive_entropy", "expected_entropy",
    "variance", "ensemble_predictive_entropy", "ensemble_mutual_information", "ensemble_variance",
)  # fmt: skip


@dataclass(frozen=True)
class Sanity:
    """AUROC of wrong against right predictions; verdict 'ok', SUSPECT_... or, below two of each, 'too few'."""

    auroc: Interval | None
    wrong: int
    right: int
    verdict: str


def misclassification(scores: Scores, wrong_N: NDArray[np.bool_]) -> Sanity:
    """How well a score tells wrong predictions from right ones; SUSPECT_ORIENTATION when AUROC + 3 SE < .5."""
    wrong_N = np.asarray(wrong_N, dtype=bool)
    wrong, right = int(wrong_N.sum()), int((~wrong_N).sum())
    if min(wrong, right) < 2:
        return Sanity(None, wrong, right, "too few")
    found = delong(Scores(scores.detector, scores.values[~wrong_N]), Scores(scores.detector, scores.values[wrong_N]))
    suspect = found.value + 3 * found.se < 0.5
    return Sanity(found, wrong, right, SUSPECT_ORIENTATION if suspect else "ok")


def wrong_predictions(logits_NK: NDArray[np.floating[Any]], labels_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the largest logit is not the label's; ValueError for samples without one label."""
    labels_N = np.asarray(labels_N)
    if labels_N.ndim != 1 or (len(labels_N) and labels_N.min() < 0):
        raise ValueError("a prediction is right or wrong where a sample has one label; leave the others out")
    return np.asarray(logits_NK).argmax(axis=1) != labels_N
