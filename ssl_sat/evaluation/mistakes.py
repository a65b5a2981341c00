"""The worst mistakes of a classifier, and what the patches look like."""

# N samples, M mistakes, K classes, C bands, S pixels of a side

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from ssl_sat.bands import find
from ssl_sat.data.packed import Pack
from ssl_sat.evaluation.predict import Predictions


@dataclass(frozen=True)
class Mistake:
    """A patch that was taken for something else: names of the true and of the predicted classes, and how sure.

    confidence: probability of the predicted class; with several labels, that of the most surely wrong class.
    """

    row: int
    id: str
    true: str
    predicted: str
    confidence: float


def worst(predictions: Predictions, count: int = 24) -> list[Mistake]:
    """The most confident mistakes, most confident first; with several labels those of the surest wrong decision."""
    if predictions.labels_N.ndim == 2:
        return _worst_multilabel(predictions, count)
    p_NK = softmax(predictions.logits_NK.astype(np.float64), axis=1)
    said_N, sure_N = p_NK.argmax(1), p_NK.max(1)
    wrong_M = np.flatnonzero(said_N != predictions.labels_N)
    order = wrong_M[np.argsort(-sure_N[wrong_M], kind="stable")][:count]
    names = predictions.classes
    return [
        Mistake(
            int(predictions.rows_N[at]), predictions.ids[at], names[predictions.labels_N[at]], names[said_N[at]],
            float(sure_N[at]),
        )
        for at in order
    ]  # fmt: skip


def _worst_multilabel(predictions: Predictions, count: int) -> list[Mistake]:
    p_NK = expit(predictions.logits_NK.astype(np.float64))
    truth_NK = predictions.labels_N > 0.5
    wrong_NK = (p_NK > 0.5) != truth_NK
    error_NK = np.where(wrong_NK, np.abs(p_NK - truth_NK), 0.0)
    order = np.argsort(-error_NK.max(1), kind="stable")[: min(count, int(wrong_NK.any(1).sum()))]
    found = []
    for at in order:
        k = int(error_NK[at].argmax())
        name, p = predictions.classes[k], float(p_NK[at, k])
        true, said = (name, f"no {name}") if truth_NK[at, k] else (f"no {name}", name)
        found.append(
            Mistake(int(predictions.rows_N[at]), predictions.ids[at], true, said, 1 - p if truth_NK[at, k] else p)
        )
    return found


def pictures(pack: Pack, rows_M: Sequence[int]) -> list[NDArray[np.float32]]:
    """Patches as (S, S, 3) in [0, 1]: red, green and blue where they are, else the first band in grey.

    Display values as they are; others stretched from the patch's 1st to its 99th percentile.
    """
    arrays = pack.read(np.asarray(rows_M, np.int64))
    names = [[*group.bands] for group in pack.groups]
    flat = [(g, c) for g, held in enumerate(names) for c in range(len(held))]
    at = [find(colour, pack.bands) for colour in ("red", "green", "blue")]
    chosen = [flat[0]] * 3 if None in at else [flat[k] for k in at if k is not None]
    side = max(arrays[g].shape[2] for g, _ in chosen)
    channels_3MSS = np.stack([_enlarged(arrays[g][:, c].astype(np.float32), side) for g, c in chosen])
    x_MSS3 = (np.moveaxis(channels_3MSS, 0, -1) - pack.manifest.offset) / pack.manifest.scale
    if pack.manifest.level == "display":
        return list(np.clip(x_MSS3, 0, 1).astype(np.float32))
    low, high = np.quantile(x_MSS3, [0.01, 0.99], axis=(1, 2, 3), keepdims=True)
    return list(np.clip((x_MSS3 - low) / np.maximum(high - low, 1e-6), 0, 1).astype(np.float32))


def _enlarged(x_MSS: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Repeat pixels of a coarser band; sizes that do not divide take the nearest pixel."""
    at = np.arange(side) * x_MSS.shape[1] // side
    across = np.arange(side) * x_MSS.shape[2] // side
    return x_MSS[:, at][:, :, across]
