"""What an experiment's artifacts say, read from their files alone: metrics per node, and over seeds."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_sat.artifact import unchanged
from ssl_sat.graph.plan import Node, Plan

_SEED = "seed"
_SEEDED = re.compile(rf"-{_SEED}[0-9]+")
_NOT_AVERAGED = ("_low", "_high", "_se", "_p")  # ends and tests of one seed's own interval


@dataclass(frozen=True)
class Finished:
    """A finished node with what its artifact holds."""

    node: Node
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def path(self) -> Path:
        """Its artifact."""
        return Path(self.node.artifact)

    @property
    def short(self) -> str:
        """The digits of the fingerprint that stand beside a number."""
        return self.node.fingerprint[:8]


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds of a group; `sd` is the sample's (n - 1), None for a single seed.

    half_width: of the 95 % interval of the mean over seeds, Student's t with n - 1 degrees of freedom. For a metric
    that is a difference within each seed (a gain) this is the paired interval.
    """

    group: str
    metric: str
    n: int
    mean: float
    sd: float | None
    half_width: float | None
    low: float
    high: float
    fingerprints: str


def collect(plan: Plan) -> list[Finished]:
    """Read every finished node; UserError for one whose numbers are not those that were published."""
    return [_read(node) for node in plan.nodes if node.done]


def _read(node: Node) -> Finished:
    folder = Path(node.artifact)
    metrics, provenance = (json.loads(unchanged(folder, f"{n}.json").read_text()) for n in ("metrics", "provenance"))
    return Finished(node, metrics, provenance)


def group_of(node: Node) -> str:
    """The node's id without its seed: what is averaged over."""
    seed = node.variables.get(_SEED)
    return node.id if seed is None else node.id.replace(f"-{_SEED}{seed}", "", 1)


def group_named(ident: str) -> str:
    """The same of an id alone, as of a node that is not in the plan any more."""
    return _SEEDED.sub("", ident, count=1)


def over_seeds(items: Sequence[Finished], metrics: Sequence[str] = ()) -> list[Spread]:
    """Mean and spread of every number (or of `metrics`) for every group with a seed."""
    groups: dict[str, list[Finished]] = {}
    for item in items:
        if _SEED in item.node.variables:
            groups.setdefault(group_of(item.node), []).append(item)
    spreads = []
    for group, members in groups.items():
        first = [name for name in members[0].metrics if not name.endswith(_NOT_AVERAGED)]
        shared = [name for name in first if all(_is_number(m.metrics.get(name)) for m in members)]
        for name in [name for name in (metrics or shared) if name in shared]:
            spreads.append(_spread(group, name, members))
    return spreads


def _spread(group: str, name: str, members: Sequence[Finished]) -> Spread:
    values = [float(member.metrics[name]) for member in members]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    half_width = None if deviation is None else _t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    prints = " ".join(member.short for member in members)
    mean = statistics.fmean(values)
    return Spread(group, name, len(values), mean, deviation, half_width, min(values), max(values), prints)


def _t_quantile(freedom: int) -> float:
    """The .975 quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def flat_metrics(plan: Plan, items: Sequence[Finished]) -> dict[str, Any]:
    """All of it flat and sorted, free of times and paths: two runs of one experiment give the same bytes."""
    flat: dict[str, Any] = {"experiment": plan.name, "nodes": len(plan.nodes), "nodes_done": len(items)}
    for item in items:
        flat[f"{item.node.id}.fingerprint"] = item.node.fingerprint
        flat |= {f"{item.node.id}.{name}": value for name, value in item.metrics.items()}
    for spread in over_seeds(items):
        values = {"n": spread.n, "mean": spread.mean, "sd": spread.sd, "half_width": spread.half_width}
        values |= {"min": spread.low, "max": spread.high}
        flat |= {f"{spread.group}.{spread.metric}.{name}": value for name, value in values.items()}
    return dict(sorted(flat.items()))


def model_card(item: Finished, by_id: Mapping[str, Finished]) -> dict[str, Any]:
    """The `model.json` of a node, or of the nearest node that it needs; {} when there is none."""
    path = item.path / "model.json"
    if path.is_file():
        return json.loads(path.read_text())
    cards = (model_card(by_id[need], by_id) for need in item.node.needs.values() if need in by_id)
    return next((card for card in cards if card), {})
