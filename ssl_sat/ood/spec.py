"""Specs of the detectors and of Monte-Carlo dropout. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_sat.spec import Spec, later

PROBE = "shortcut_probe"  # what stands beside the detectors, in scores, metrics and tables


class McDropoutSpec(Spec):
    """How many passes, and which masks. The estimate of mutual information is biased low in `passes`: keep it fixed.

    method: `exact` runs the masks. `moment_matched` draws Gaussian logits of the same mean and covariance instead, an
    approximation for a dropout in front of a linear head alone (`ssl_sat.ood.linear_head`).
    repeats: how many such sets of passes, each with masks of its own; the first is scored, the others show how far the
    results depend on the masks.
    """

    passes: int = Field(30, ge=2)
    seed: int = Field(0, ge=0)
    method: Literal["exact", "moment_matched"] = later("exact")
    repeats: int = later(1, ge=1)


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


class GenSpec(Spec):
    """Generalised entropy of the `top` largest probabilities (Liu et al. 2023)."""

    name: Literal["gen"] = "gen"
    gamma: float = Field(0.1, gt=0, lt=1)
    top: int = Field(100, ge=1)


class MutualInformationSpec(Spec):
    """Mutual information between label and dropout mask (BALD; Houlsby et al. 2011, Gal et al. 2017), in nats."""

    name: Literal["mutual_information"] = "mutual_information"


class PredictiveEntropySpec(Spec):
    """Entropy of the mean softmax over the dropout passes, in nats."""

    name: Literal["predictive_entropy"] = "predictive_entropy"


class ExpectedEntropySpec(Spec):
    """Mean over the dropout passes of the entropy of each: what remains unsure when the mask is known, in nats."""

    name: Literal["expected_entropy"] = "expected_entropy"


class VarianceSpec(Spec):
    """Variance of the class probabilities over the dropout passes, averaged over the classes."""

    name: Literal["variance"] = "variance"


class EnsemblePredictiveEntropySpec(Spec):
    """Entropy of the mean softmax of a deep ensemble (Lakshminarayanan et al. 2017), in nats."""

    name: Literal["ensemble_predictive_entropy"] = "ensemble_predictive_entropy"


class EnsembleMutualInformationSpec(Spec):
    """Mutual information between label and member of a deep ensemble, in nats."""

    name: Literal["ensemble_mutual_information"] = "ensemble_mutual_information"


class EnsembleVarianceSpec(Spec):
    """Variance of the class probabilities over the members of a deep ensemble, averaged over the classes."""

    name: Literal["ensemble_variance"] = "ensemble_variance"


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


class RelativeMahalanobisSpec(Spec):
    """Mahalanobis distance less that to one Gaussian of all classes together (Ren et al. 2021); shrinkage as there."""

    name: Literal["relative_mahalanobis"] = "relative_mahalanobis"
    shrinkage: float = Field(1e-3, ge=0)


class GaussianDensitySpec(Spec):
    """Minus the log density of a Gaussian mixture, one component and covariance a class (DDU; Mukhoti et al. 2023).

    Each covariance gets `shrinkage` times its mean variance on the diagonal.
    """

    name: Literal["gaussian_density"] = "gaussian_density"
    shrinkage: float = Field(1e-3, ge=0)


class VimSpec(Spec):
    """Virtual-logit matching (Wang et al. 2022). `dimension` of the principal space; null takes the authors'."""

    name: Literal["vim"] = "vim"
    dimension: int | None = Field(None, ge=1)


class FdbdSpec(Spec):
    """Distance to the decision boundaries over the distance to the training mean (Liu & Qin 2024)."""

    name: Literal["fdbd"] = "fdbd"


class ReactSpec(Spec):
    """Energy of activations cut at a quantile of those in training (Sun et al. 2021). For non-negative features."""

    name: Literal["react"] = "react"
    quantile: float = Field(0.9, gt=0, lt=1)


class AshSpec(Spec):
    """Energy after setting a sample's smallest activations to zero (Djurisic et al. 2023). For non-negative features.

    variant: `s` scales the rest by exp(sum before / sum after), `p` leaves it, `b` spreads the sum evenly over it.
    """

    name: Literal["ash"] = "ash"
    prune: float = Field(0.65, ge=0, lt=1)
    variant: Literal["s", "p", "b"] = "s"


class ScaleSpec(Spec):
    """Energy after scaling a sample's activations by exp(sum / sum of the largest) (Xu et al. 2024). As for ASH."""

    name: Literal["scale"] = "scale"
    prune: float = Field(0.85, ge=0, lt=1)
