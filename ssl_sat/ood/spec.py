"""Specs of the detectors and of Monte-Carlo dropout. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_sat.spec import Spec


class McDropoutSpec(Spec):
    """How many passes, and which masks. The estimate of mutual information is biased low in `passes`: keep it fixed."""

    passes: int = Field(30, ge=2)
    seed: int = Field(0, ge=0)


class MspSpec(Spec):
    """Maximum softmax probability (Hendrycks & Gimpel 2017), as log(1 - p_max)."""

    name: Literal["msp"] = "msp"


class EntropySpec(Spec):
    """Entropy of the softmax of one plain pass, in nats."""

    name: Literal["entropy"] = "entropy"


class EnergySpec(Spec):
    """Free energy -T logsumexp(logits / T) (Liu et al. 2020)."""

    name: Literal["energy"] = "energy"
    temperature: float = Field(1.0, gt=0)


class MaxLogitSpec(Spec):
    """Minus the largest logit (Hendrycks et al. 2022)."""

    name: Literal["max_logit"] = "max_logit"


class MutualInformationSpec(Spec):
    """Mutual information between label and dropout mask (BALD; Houlsby et al. 2011, Gal et al. 2017), in nats."""

    name: Literal["mutual_information"] = "mutual_information"


class PredictiveEntropySpec(Spec):
    """Entropy of the mean softmax over the dropout passes, in nats."""

    name: Literal["predictive_entropy"] = "predictive_entropy"


class MahalanobisSpec(Spec):
    """Smallest squared Mahalanobis distance to a class mean, tied covariance (Lee et al. 2018).

    The covariance gets `shrinkage` times its mean variance on the diagonal.
    """

    name: Literal["mahalanobis"] = "mahalanobis"
    shrinkage: float = Field(1e-3, ge=0)


class KnnSpec(Spec):
    """Distance to the k-th nearest training feature, features at unit length (Sun et al. 2022)."""

    name: Literal["knn"] = "knn"
    k: int = Field(50, ge=1)
