"""What a command says of its artifact on the terminal, from the artifact's metrics alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Metrics = Mapping[str, Any]


def pretraining(metrics: Metrics) -> list[str]:
    """The loss between its bounds, the spread of the embeddings, the probes beside those of the untrained encoder."""
    last = {name.removesuffix("_last_epoch"): value for name, value in metrics.items() if name.endswith("_last_epoch")}
    bounds = [f"{name} {last[f'loss_{name}']:.4f}" for name in ("floor", "collapse") if f"loss_{name}" in last]
    spread = "spread of the embeddings {:.3f} (1 = over the whole sphere, 0 = collapsed)"
    both = f"loss of the last epoch {last['loss']:.4f}, of the first {metrics['loss_first_epoch']:.4f}"
    return [
        "; ".join(filter(None, [both, ", ".join(bounds)])),
        *([spread.format(last["embedding_std"])] if "embedding_std" in last else []),
        *(_gained(metrics, name) for name in ("knn_accuracy", "linear_accuracy") if f"{name}_gain" in metrics),
    ]


def _gained(metrics: Metrics, name: str) -> str:
    after, before, low, high = (metrics[f"{name}{end}"] for end in ("", "_untrained", "_low", "_high"))
    return f"{name} {after:.4f} [{low:.4f}, {high:.4f}], untrained {before:.4f}, n = {metrics['watched_patches']}"
