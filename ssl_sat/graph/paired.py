"""Groups of an experiment against one another, seed by seed, by the arithmetic of `ssl_sat.compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssl_sat.graph.collect import Finished, group_of
from ssl_sat.report.tables import Estimate, Value

_TESTS = ("test_accuracy", "test_map_macro", "test_macro_f1")
STARTS = tuple(f"start_{p}_{m}" for p in ("knn", "linear_probe") for m in ("accuracy", "map_macro"))


def paired_rows(items: Sequence[Finished]) -> list[dict[str, Value]]:
    """A row for each metric and pair of groups of one stage on the same data, larger mean first.

    Metrics: accuracy (or mean average precision) and macro F1 on test, every detector's AUROC, and, where runs start
    from different features, the probes of these. With more than eight groups each is compared with the best. Pairs
    without a common seed are left out: nothing pairs them.
    """
    from ssl_sat.evaluation.comparison import differences

    rows: list[dict[str, Value]] = []
    for stage in dict.fromkeys(item.node.stage for item in items):
        same = [item for item in items if item.node.stage == stage]
        for metric in _metrics(same):
            groups = _as_groups([item for item in same if _is_number(item.metrics.get(metric))])
            if len(groups) > 1:
                prints = {group.label: group for group in groups}
                rows += [_row(metric, found, prints) for found in differences(groups, metric)]
    return rows


def _metrics(items: Sequence[Finished]) -> list[str]:
    there = {name for item in items for name, value in item.metrics.items() if _is_number(value)}
    detectors = sorted(name for name in there if name.endswith("_auroc") and "@" not in name)
    starts = [name for name in STARTS if name in there and _differ(items, name)]
    return [name for name in _TESTS if name in there] + starts + detectors


def _differ(items: Sequence[Finished], metric: str) -> bool:
    """Whether runs of one seed have more than one value."""
    values: dict[Any, set[Any]] = {}
    for item in items:
        if metric in item.metrics:
            values.setdefault(item.node.variables.get("seed"), set()).add(item.metrics[metric])
    return any(len(found) > 1 for found in values.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_groups(items: Sequence[Finished]) -> list[Any]:
    from ssl_sat.evaluation.runs import Group

    members: dict[str, list[Any]] = {}
    for item in items:
        members.setdefault(group_of(item.node), []).append(as_run(item))
    return [Group(label, tuple(sorted(runs, key=lambda run: run.seed))) for label, runs in members.items()]


def as_run(item: Finished) -> Any:
    """A node as `ssl_sat.compare` knows runs."""
    from ssl_sat.evaluation.runs import Run

    node = item.node
    data = " ".join(node.inputs.get(slot, "") for slot in ("data", "ood"))
    seed = node.variables.get("seed", node.config.get("seed", 0))
    return Run(
        item.path, node.fingerprint, data, int(seed or 0), {"seed": seed}, item.metrics, item.provenance, {},
        node.synthetic,
    )  # fmt: skip


def _row(metric: str, found: Any, groups: dict[str, Any]) -> dict[str, Value]:
    over = found.over_seeds
    half = over.half_width
    ends = (None, None) if half is None else (over.mean - half, over.mean + half)
    first, second = groups[found.first].by_seed, groups[found.second].by_seed
    prints = [f"{first[seed].short} {second[seed].short}" for seed in first if seed in second]
    return {
        "metric": metric, "first": found.first, "second": found.second, "difference": Estimate(over.mean, *ends),
        "seeds": over.n, "p": found.p, "p_holm": found.p_holm, "detectable": found.detectable,
        "verdict": found.verdict, "fingerprints": " ".join(prints),
    }  # fmt: skip
