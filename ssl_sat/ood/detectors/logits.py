"""Scores from the logits of one plain pass: MSP, entropy, energy, largest logit, GEN. All in float64."""

# N samples, K classes

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, log_softmax, logsumexp

from ssl_sat.ood.contract import Fitted, NotApplicable, PredictionsLike, require_train
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import EnergySpec, EntropySpec, GenSpec, MaxLogitSpec, MspSpec

Array = NDArray[np.float64]


def log_one_minus_msp(logits_NK: Array) -> Array:
    """Return log(1 - p_max) (Hendrycks & Gimpel 2017, section 2, as a log).

    It is the logsumexp of all other logits less the logsumexp of all.

    In float32 p_max is exactly 1 for most samples of a confident net; here no difference is taken of
    numbers close to 1, so the order of such samples is kept.
    """
    sorted_NK = np.sort(logits_NK.astype(np.float64), axis=1)
    return logsumexp(sorted_NK[:, :-1], axis=1) - logsumexp(sorted_NK, axis=1)


def softmax_entropy(logits_NK: Array) -> Array:
    """Entropy in nats of softmax(logits): H = -sum_k p_k log p_k (as a score: Chan et al. 2021)."""
    return entr(np.exp(log_softmax(logits_NK.astype(np.float64), axis=1))).sum(axis=1)


def energy(logits_NK: Array, temperature: float = 1.0) -> Array:
    """Free energy -T logsumexp(logits / T); higher for weaker evidence (Liu et al. 2020, equation 4)."""
    return -temperature * logsumexp(logits_NK.astype(np.float64) / temperature, axis=1)


def minus_max_logit(logits_NK: Array) -> Array:
    """Minus the largest logit (Hendrycks et al. 2022, section 3)."""
    return -logits_NK.astype(np.float64).max(axis=1)


def generalised_entropy(logits_NK: Array, gamma: float, top: int) -> Array:
    """Sum over the M largest p_j of p_j^gamma (1 - p_j)^gamma (GEN; Liu et al. 2023, equation 5, sign turned).

    log(1 - p_j) comes without a difference of numbers close to 1, as in `log_one_minus_msp`.
    """
    log_p_NK = np.sort(log_softmax(logits_NK.astype(np.float64), axis=1), axis=1)
    largest_NM = log_p_NK[:, ::-1][:, :top]
    rest_NM = np.log(-np.expm1(np.minimum(largest_NM, -np.finfo(np.float64).tiny)))
    rest_NM[:, 0] = logsumexp(log_p_NK[:, :-1], axis=1)
    return np.exp(gamma * (largest_NM + rest_NM)).sum(axis=1)


@dataclass(frozen=True)
class LogitDetector:
    """A score that is a function of the logits alone; nothing is learned in `fit`."""

    name: str
    score: Callable[[Array], Array]
    needs: str = "logits"

    def fit(self, train: PredictionsLike) -> Fitted:
        """Check the split, and return the score."""
        require_train(train, self.name)
        return self._scores

    def _scores(self, predictions: PredictionsLike) -> Scores:
        logits_NK = np.asarray(predictions.logits_NK, dtype=np.float64)
        if logits_NK.ndim != 2 or logits_NK.shape[1] < 2:
            raise NotApplicable(f"detector '{self.name}' needs logits (N, K) of K >= 2 classes, not {logits_NK.shape}")
        return Scores(self.name, self.score(logits_NK))


def build(spec: MspSpec | EntropySpec | EnergySpec | MaxLogitSpec | GenSpec) -> LogitDetector:
    """Build the detector that `spec` names."""
    if isinstance(spec, GenSpec):
        gamma, top = spec.gamma, spec.top
        return LogitDetector(spec.name, lambda logits_NK: generalised_entropy(logits_NK, gamma, top))
    if isinstance(spec, EnergySpec):
        temperature = spec.temperature
        return LogitDetector(spec.name, lambda logits_NK: energy(logits_NK, temperature))
    plain = {"msp": log_one_minus_msp, "entropy": softmax_entropy, "max_logit": minus_max_logit}
    return LogitDetector(spec.name, plain[spec.name])
