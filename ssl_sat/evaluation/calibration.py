"""Temperature scaling (Guo et al. 2017): one positive number, fitted on the validation split.

Logits are divided by it: before the softmax, or, with several labels a patch, before the sigmoid of every class.
"""

# N samples, K classes

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ssl_sat.evaluation import multilabel
from ssl_sat.evaluation.classification import classification_metrics, nll
from ssl_sat.evaluation.predict import Predictions

_CALIBRATED = ("nll", "brier", "ece", "adaptive_ece", "aurc", "e_aurc")


def fit_temperature(val: Predictions) -> float:
    """Return the temperature in [0.01, 100] that minimises the NLL of logits / T on validation predictions.

    Raises ValueError on any other split. At an end of the range the logits are (nearly) separable or useless.
    """
    if val.split != "val":
        raise ValueError(f"the temperature is fitted on validation predictions only, not on split '{val.split}'")
    return temperature_of(val.logits_NK, val.labels_N)


def temperature_of(logits_NK: NDArray[np.floating[Any]], labels_N: NDArray[Any]) -> float:
    """The temperature of minimal NLL; the NLL is convex in 1/T, so the search over log T finds the one minimum.

    Labels (N, K) of 0 and 1 take the NLL of every class's sigmoid.
    """
    logits_NK, loss = np.asarray(logits_NK, dtype=np.float64), nll if labels_N.ndim == 1 else multilabel.nll
    found = minimize_scalar(
        lambda log_t: loss(logits_NK / np.exp(log_t), labels_N),
        bounds=(np.log(0.01), np.log(100.0)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x))


def calibrated_metrics(val: Predictions, test: Predictions) -> dict[str, float]:
    """Temperature from val; metrics of test that it changes, with the suffix `_scaled`."""
    temperature = fit_temperature(val)
    logits_NK = test.logits_NK.astype(np.float64) / temperature
    if test.labels_N.ndim == 2:
        scaled: dict[str, Any] = multilabel.calibration_of(logits_NK, test.labels_N > 0.5)
    else:
        scaled = classification_metrics(logits_NK, test.labels_N, test.classes)
    return {
        "temperature": temperature,
        **{f"{name}_scaled": float(scaled[name]) for name in _CALIBRATED if name in scaled},
    }
