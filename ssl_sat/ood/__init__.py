"""Out-of-distribution detection: detectors by name, scores that know their direction, metrics that insist on it."""

from ssl_sat.ood.spec import (
    EnergySpec,
    EntropySpec,
    KnnSpec,
    MahalanobisSpec,
    MaxLogitSpec,
    MspSpec,
    MutualInformationSpec,
    PredictiveEntropySpec,
)
from ssl_sat.registry import Registry

DETECTORS = Registry("detector")
DETECTORS.add("mutual_information", "ssl_sat.ood.detectors.sampled:build", MutualInformationSpec, version=1)
DETECTORS.add("predictive_entropy", "ssl_sat.ood.detectors.sampled:build", PredictiveEntropySpec, version=1)
DETECTORS.add("msp", "ssl_sat.ood.detectors.logits:build", MspSpec, version=1)
DETECTORS.add("entropy", "ssl_sat.ood.detectors.logits:build", EntropySpec, version=1)
DETECTORS.add("energy", "ssl_sat.ood.detectors.logits:build", EnergySpec, version=1)
DETECTORS.add("max_logit", "ssl_sat.ood.detectors.logits:build", MaxLogitSpec, version=1)
DETECTORS.add("mahalanobis", "ssl_sat.ood.detectors.mahalanobis:build", MahalanobisSpec, version=1)
DETECTORS.add("knn", "ssl_sat.ood.detectors.knn:build", KnnSpec, version=1)
