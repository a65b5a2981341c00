"""What is done about classes of unequal size: in the loss, or in which patches an epoch shows. Torch-free by itself."""

from ssl_sat.registry import Registry
from ssl_sat.training.imbalance import spec

IMBALANCES = Registry("imbalance")
IMBALANCES.add("none", "ssl_sat.training.imbalance.weights:none", spec.NoneSpec, version=1)
IMBALANCES.add("weighted", "ssl_sat.training.imbalance.weights:weighted", spec.WeightedSpec, version=1)
IMBALANCES.add(
    "effective_number", "ssl_sat.training.imbalance.weights:effective_number", spec.EffectiveNumberSpec, version=1
)
IMBALANCES.add("focal", "ssl_sat.training.imbalance.focal:build", spec.FocalSpec, version=1)
IMBALANCES.add("sampler", "ssl_sat.training.imbalance.sampling:inverse_frequency", spec.SamplerSpec, version=1)
IMBALANCES.add(
    "capped_negatives", "ssl_sat.training.imbalance.sampling:capped_negatives", spec.CappedNegativesSpec, version=1
)
