"""The gap between training and validation, measured alike on both, and when it is called over-fitting.

Training patches are seen as validation patches are: centre view, network in eval mode, final weights. The running
training accuracy of the curves is lower, because augmentation and dropout are on.

Rule: over-fitting is flagged when the gap is larger than `MARGIN` beyond chance, that is when the lower end of its
95 % interval is above MARGIN. A gap above zero is the rule and not the exception in trained networks, and with many
patches the smallest one is significant; five points are a share that a user would want to win back.
"""

# N patches, B resamples

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_sat.evaluation import multilabel
from ssl_sat.evaluation.classification import newcombe_interval
from ssl_sat.evaluation.predict import Predictions

MARGIN = 0.05


def gap_metrics(train: Predictions, val: Predictions) -> dict[str, Any]:
    """`gap` (train - val) of accuracy or micro mAP with its interval, what it is the gap of, and `overfitting`.

    Raises ValueError unless the predictions are of the splits train and val.
    """
    if (train.split, val.split) != ("train", "val"):
        raise ValueError(f"the gap is between train and val, not between {train.split} and {val.split}")
    name, (first, second), (low, high) = (
        _average_precision(train, val) if train.labels_N.ndim == 2 else _hits(train, val)
    )
    return {
        f"train_sample_{name}": first,
        "train_sample_n": len(train),
        "gap": first - second,
        "gap_low": low,
        "gap_high": high,
        "gap_of": name,
        "overfitting": bool(low > MARGIN),
    }


def _hits(*both: Predictions) -> tuple[str, tuple[float, float], tuple[float, float]]:
    hits = tuple(int((part.logits_NK.argmax(1) == part.labels_N).sum()) for part in both)
    counts = tuple(len(part) for part in both)
    shares = hits[0] / counts[0], hits[1] / counts[1]
    return "accuracy", shares, newcombe_interval((hits[0], hits[1]), (counts[0], counts[1]))


def _average_precision(*both: Predictions) -> tuple[str, tuple[float, float], tuple[float, float]]:
    """Interval from independent bootstraps of both samples, as quantiles of the differences."""
    values, resampled = [], []
    for seed, part in enumerate(both):
        logits, truth = part.logits_NK.astype(np.float64).ravel(), part.labels_N.ravel() > 0.5
        weights_BN = multilabel.resampled_weights(len(part), seed=seed)
        values.append(float(multilabel.average_precision(logits, truth)[0]))
        resampled.append(multilabel.average_precision(logits, truth, weights_BN, each=part.labels_N.shape[1]))
    low, high = np.nanquantile(resampled[0] - resampled[1], [0.025, 0.975])
    return "map_micro", (values[0], values[1]), (float(low), float(high))
