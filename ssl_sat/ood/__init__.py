"""Out-of-distribution detection: detectors by name, scores that know their direction, metrics that insist on it."""

from ssl_sat.ood import spec
from ssl_sat.registry import Registry

DETECTORS = Registry("detector")
_AT = "ssl_sat.ood.detectors"
DETECTORS.add("mutual_information", f"{_AT}.sampled:build", spec.MutualInformationSpec, version=1)
DETECTORS.add("predictive_entropy", f"{_AT}.sampled:build", spec.PredictiveEntropySpec, version=1)
DETECTORS.add("expected_entropy", f"{_AT}.sampled:build", spec.ExpectedEntropySpec, version=1)
DETECTORS.add("variance", f"{_AT}.sampled:build", spec.VarianceSpec, version=1)
DETECTORS.add("ensemble_predictive_entropy", f"{_AT}.sampled:build", spec.EnsemblePredictiveEntropySpec, version=1)
DETECTORS.add("ensemble_mutual_information", f"{_AT}.sampled:build", spec.EnsembleMutualInformationSpec, version=1)
DETECTORS.add("ensemble_variance", f"{_AT}.sampled:build", spec.EnsembleVarianceSpec, version=1)
DETECTORS.add("msp", f"{_AT}.logits:build", spec.MspSpec, version=1)
DETECTORS.add("entropy", f"{_AT}.logits:build", spec.EntropySpec, version=1)
DETECTORS.add("energy", f"{_AT}.logits:build", spec.EnergySpec, version=1)
DETECTORS.add("max_logit", f"{_AT}.logits:build", spec.MaxLogitSpec, version=1)
DETECTORS.add("gen", f"{_AT}.logits:build", spec.GenSpec, version=1)
DETECTORS.add("mahalanobis", f"{_AT}.mahalanobis:build", spec.MahalanobisSpec, version=2)
DETECTORS.add("relative_mahalanobis", f"{_AT}.mahalanobis:build", spec.RelativeMahalanobisSpec, version=1)
DETECTORS.add("gaussian_density", f"{_AT}.density:build", spec.GaussianDensitySpec, version=1)
DETECTORS.add("knn", f"{_AT}.knn:build", spec.KnnSpec, version=1)
DETECTORS.add("vim", f"{_AT}.vim:build", spec.VimSpec, version=1)
DETECTORS.add("fdbd", f"{_AT}.fdbd:build", spec.FdbdSpec, version=1)
DETECTORS.add("react", f"{_AT}.shaping:build", spec.ReactSpec, version=1)
DETECTORS.add("ash", f"{_AT}.shaping:build", spec.AshSpec, version=1)
DETECTORS.add("scale", f"{_AT}.shaping:build", spec.ScaleSpec, version=1)

CODE = tuple(  # the modules that decide what scores and metrics are, beside those of the detectors chosen
    f"ssl_sat.ood.{name}"
    for name in (
        "bootstrap", "comparisons", "conformal", "curves", "delong", "ensemble", "gaussian", "keyed_dropout",
        "linear_head", "mask_kernel", "mc_dropout", "metrics", "pass_statistics", "replay", "sanity", "score",
        "selective", "shortcut_probe",
    )
)  # fmt: skip
