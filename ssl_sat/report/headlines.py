"""What a command says of its artifact on the terminal, from the artifact's metrics alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Metrics = Mapping[str, Any]


def pretraining(metrics: Metrics) -> list[str]:
    """A start that is not scratch, the loss between its bounds, the spread, probes beside the untrained encoder's."""
    last = {name.removesuffix("_last_epoch"): value for name, value in metrics.items() if name.endswith("_last_epoch")}
    bounds = [f"{name} {last[f'loss_{name}']:.4f}" for name in ("floor", "collapse") if f"loss_{name}" in last]
    spread = "spread of the embeddings {:.3f} (1 = over the whole sphere, 0 = collapsed)"
    both = f"loss of the last epoch {last['loss']:.4f}, of the first {metrics['loss_first_epoch']:.4f}"
    start = metrics.get("initialisation", "scratch")
    return [
        *([f"initialisation: {start}"] if start != "scratch" else []),
        "; ".join(filter(None, [both, ", ".join(bounds)])),
        *([spread.format(last["embedding_std"])] if "embedding_std" in last else []),
        *(_gained(metrics, name) for name in ("knn_accuracy", "linear_accuracy") if f"{name}_gain" in metrics),
    ]


def _gained(metrics: Metrics, name: str) -> str:
    after, before, low, high = (metrics[f"{name}{end}"] for end in ("", "_untrained", "_low", "_high"))
    return f"{name} {after:.4f} [{low:.4f}, {high:.4f}], untrained {before:.4f}, n = {metrics['watched_patches']}"


def finetuning(metrics: Metrics) -> list[str]:
    """Where it started, what it reaches on test, the gap, calibration, the probes beside; validation is no result."""
    start = f"initialisation: {metrics['initialisation']}; bands: {metrics['bands']}; {metrics['epochs']} epochs"
    lines = [start, *([f"normalisation: {metrics['normalisation']}"] if "normalisation" in metrics else [])]
    for split in ("val", "test"):
        for name in ("accuracy", "map_macro", "map_micro"):
            lines += _with_interval(metrics, split, name)
    if "test_n" not in metrics:
        return [*lines, "no test split: validation chose the model, so these numbers are no result"]
    lines.append("; ".join(_calibration(metrics)))
    if "gap" in metrics:
        verdict = "over-fitting" if metrics["overfitting"] else "not flagged"
        gap = f"{metrics['gap']:+.4f} [{metrics['gap_low']:+.4f}, {metrics['gap_high']:+.4f}]"
        lines.append(f"train - val {_plain(metrics['gap_of'])}, seen alike: {gap}, {verdict}")
    for name in ("knn_accuracy", "linear_probe_accuracy", "knn_map_macro", "linear_probe_map_macro"):
        if f"tuned_{name}" in metrics:
            before = metrics.get(f"start_{name}")
            began = "" if before is None else f", before {before:.4f}"
            lines.append(f"{_plain(name)} of the encoder's features: {metrics[f'tuned_{name}']:.4f}{began}")
    return lines


def _with_interval(metrics: Metrics, split: str, name: str) -> list[str]:
    key = f"{split}_{name}"
    if key not in metrics:
        return []
    ends = f" [{metrics[f'{key}_low']:.4f}, {metrics[f'{key}_high']:.4f}]" if f"{key}_low" in metrics else ""
    return [f"{split} {_plain(name)} {metrics[key]:.4f}{ends}, n = {metrics[f'{split}_n']}"]


def _calibration(metrics: Metrics) -> list[str]:
    said = [f"test macro F1 {metrics['test_macro_f1']:.4f}"]
    for name in ("nll", "brier", "ece"):
        scaled = metrics.get(f"test_{name}_scaled")
        said.append(f"{name} {metrics[f'test_{name}']:.4f}" + ("" if scaled is None else f" -> {scaled:.4f}"))
    return [*said, *([f"at temperature {metrics['temperature']:.3f}"] if "temperature" in metrics else [])]


def _plain(name: Any) -> str:
    return str(name).replace("_", " ")
