"""Which metrics a planned node can measure, by its configuration, so that a misspelt one is found before the run.

Fine-tuning measures its splits, its probes and its gap; an OOD evaluation its detectors and the shortcut probe. Of
other stages nothing is known here.
"""

from __future__ import annotations

from collections.abc import Iterable

from ssl_sat.graph.plan import Node
from ssl_sat.ood.spec import PROBE

_ENDS = ("", "_low", "_high")
_CLASSIFICATION = (
    "n", "accuracy", "macro_f1", "nll", "brier", "ece", "adaptive_ece", "aurc", "e_aurc", "classes_present",
    "map_macro", "map_micro", "micro_f1",
)  # fmt: skip
_PROBED = ("accuracy", "map_macro", "map_micro")
_OF_FINETUNE = (
    "gap", "gap_low", "gap_high", "overfitting", "temperature", "epochs", "train_patches", "train_sample_n",
    "train_sample_accuracy", "train_sample_map_micro",
)  # fmt: skip
_OPEN = ("train_", "phase_", *(f"{s}_{m}/" for s in ("val", "test") for m in ("recall", "f1", "ap")))  # any name after
_DETECTION = (
    "auroc", "aupr_out", "aupr_in", "fpr_id_at_95tpr_ood", "fpr_ood_at_95tpr_id", "detection_error", "gain_over_probe",
    "finds_wrong",
)  # fmt: skip
_OF_DETECTORS = (
    "auroc_se", "auroc_sd_over_masks", "gain_over_probe_p", "gain_over_probe_p_holm", "gain_over_probe_detectable",
    "n_id", "n_ood", "threshold", "id_accepted", "ood_rejected", "passes", "aurc", "e_aurc", "aurc_with_ood",
)  # fmt: skip
_OF_OOD_EVAL = (
    "n_id", "n_ood", "n_ood_validation", "n_ood_identical_left_out", "n_train_fit", "n_calibration", "mc_passes",
    "id_accuracy", "ood_accuracy", "temperature", "alpha", "id_accepted_at_least", "id_accepted_low",
    "id_accepted_high", "probe_statistics",
)  # fmt: skip


def unmeasurable(metric: str, nodes: Iterable[Node]) -> set[str] | None:
    """None where one of the nodes may have the metric; otherwise the names that they have, to suggest one of."""
    known: set[str] = set()
    for node in nodes:
        names = _names(node)
        if names is None or _of_a_part(metric) in names or (node.stage == "finetune" and metric.startswith(_OPEN)):
            return None
        known |= names
    return known or None


def _names(node: Node) -> set[str] | None:
    """Names of a node's metrics; None for a stage of which nothing is known."""
    if node.stage == "finetune":
        return _of_finetune()
    if node.stage == "ood_eval":
        return _of_ood_eval([str(detector["name"]) for detector in node.config["detectors"]])
    return None


def _of_finetune() -> set[str]:
    splits = {f"{split}_{name}{end}" for split in ("val", "test") for name in _CLASSIFICATION
              for end in (*_ENDS, "_scaled")}  # fmt: skip
    probes = {f"{when}_{probe}_{name}{end}" for when in ("start", "tuned") for probe in ("knn", "linear_probe")
              for name in _PROBED for end in _ENDS}  # fmt: skip
    return splits | probes | {*_OF_FINETUNE}


def _of_ood_eval(detectors: list[str]) -> set[str]:
    measured = [f"{name}{end}" for name in _DETECTION for end in _ENDS] + [*_OF_DETECTORS]
    return {f"{detector}_{name}" for detector in (*detectors, PROBE) for name in measured} | {*_OF_OOD_EVAL}


def _of_a_part(metric: str) -> str:
    """A detector's metric of a group of OOD patches, `msp@known_auroc`, as that of all: the longest it ends with."""
    detector, at, rest = metric.partition("@")
    ends = [f"{name}{end}" for name in _DETECTION for end in _ENDS] + [*_OF_DETECTORS]
    fitting = [end for end in ends if rest.endswith(f"_{end}")]
    return f"{detector}_{max(fitting, key=len)}" if at and fitting else metric
