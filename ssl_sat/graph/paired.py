"""Groups of an experiment against one another, seed by seed, by the arithmetic of `ssl_sat.compare`."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ssl_sat.graph.collect import Finished, group_of
from ssl_sat.report.tables import Estimate, Value

if TYPE_CHECKING:
    from ssl_sat.evaluation.comparison import Difference
    from ssl_sat.evaluation.runs import Group, Run

_NODE = ""  # beside the names of variables
_ALL_PAIRS = 8  # groups on the same data whose pairs are all compared
_TESTED = (
    "tier", "split", "id_split", "ood_split", "overlapping", "validation_classes", "max_id", "max_patches",
)  # fmt: skip
_TESTS = ("test_accuracy", "test_map_macro", "test_macro_f1")
STARTS = tuple(f"start_{p}_{m}" for p in ("knn", "linear_probe") for m in ("accuracy", "map_macro"))


def paired_rows(items: Sequence[Finished]) -> list[dict[str, Value]]:
    """A row for each metric and pair of groups of one stage tested on the same patches, larger mean first.

    Metrics: accuracy (or mean average precision) and macro F1 on test, every detector's AUROC, and, where runs start
    from different features, the probes of these. Up to eight groups are all compared; of more those that differ in one
    variable of foreach, or in the node alone, and of the rest each with the best. Pairs without a common seed are left
    out: nothing pairs them. p by Holm over all pairs of a metric.
    """
    by_id = {item.node.id: item for item in items}
    rows: list[dict[str, Value]] = []
    for stage in dict.fromkeys(item.node.stage for item in items):
        same = [item for item in items if item.node.stage == stage]
        for metric in _metrics(same):
            groups = _as_groups([item for item in same if _is_number(item.metrics.get(metric))], by_id)
            if len(groups) > 1:
                prints = {group.label: group for group in groups}
                rows += [_row(metric, found, prints) for found in _differences(groups, metric)]
    return rows


def _differences(groups: Sequence[Group], metric: str) -> list[Difference]:
    """Those of all pairs that are compared, each once; p adjusted for their number."""
    from ssl_sat.evaluation.comparison import differences
    from ssl_sat.evaluation.detectable import holm

    found: dict[frozenset[str], Difference] = {}
    for data in dict.fromkeys(group.data for group in groups):
        for together in _compared([group for group in groups if group.data == data], metric):
            for one in differences(together, metric):
                found.setdefault(frozenset((one.first, one.second)), one)
    adjusted = holm([one.p for one in found.values()])
    return [replace(one, p_holm=p) for one, p in zip(found.values(), adjusted, strict=True)]


def _compared(groups: Sequence[Group], metric: str) -> list[list[Group]]:
    """Sets of groups on the same data, to be compared among themselves."""
    if len(groups) <= _ALL_PAIRS:
        return [[*groups]]
    lines: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        for variable in [name for name in group.values if name != _NODE]:
            rest = sorted((name, value) for name, value in group.values.items() if name != variable)
            lines.setdefault((variable, *rest), []).append(group)
    found = [line for line in lines.values() if len(line) > 1]
    found += [[a, b] for a, b in itertools.combinations(groups, 2) if _differ_in_node_alone(a, b)]
    met = {group.label for line in found for group in line}
    best = max(groups, key=lambda group: statistics.fmean(group.numbers(metric).values()))
    return found + [[best, group] for group in groups if group.label not in met and group is not best]


def _differ_in_node_alone(one: Group, other: Group) -> bool:
    """Whether the values of the node with fewer variables are all among the other's: `short-cnn`, `long-cnn-simclr`."""
    few, many = sorted((one, other), key=lambda group: len(group.values))
    ours, theirs = ({k: v for k, v in group.values.items() if k != _NODE} for group in (few, many))
    same = all(theirs.get(name, value) == value for name, value in ours.items())
    return one.values[_NODE] != other.values[_NODE] and bool(ours) and same and {*ours.values()} <= {*theirs.values()}


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


def _as_groups(items: Sequence[Finished], by_id: Mapping[str, Finished]) -> list[Group]:
    from ssl_sat.evaluation.runs import Group

    members: dict[str, list[Finished]] = {}
    for item in items:
        members.setdefault(group_of(item.node), []).append(item)
    groups = []
    for label, own in members.items():
        runs = sorted((as_run(item, tested_on(item, by_id)) for item in own), key=lambda run: run.seed)
        groups.append(Group(label, tuple(runs), {_NODE: own[0].node.node, **_variables(own[0])}))
    return groups


def _variables(item: Finished) -> dict[str, str]:
    return {name: value for name, value in item.node.variables.items() if name != "seed"}


def tested_on(item: Finished, by_id: Mapping[str, Finished]) -> str:
    """What decides on which patches a node is tested: its packs, and the split, tier, classes and number asked for.

    Classes that a model was fine-tuned without are in no test of it, so that an evaluation takes them from its model.
    """
    node, model = item.node, by_id.get(item.node.needs.get("model", ""))
    asked = {name: node.config[name] for name in _TESTED if node.config.get(name) is not None}
    if "seed" not in node.variables and "max_id" in asked:
        asked["seed"] = node.config.get("seed")  # draws the patches
    held_out = [sorted(one.node.config.get("held_out") or ()) for one in (item, model) if one is not None]
    packs = [node.inputs.get(slot, "") for slot in ("data", "ood")]
    return json.dumps([packs, [held for held in held_out if held], asked], sort_keys=True, default=str)


def as_run(item: Finished, data: str = "") -> Run:
    """A node as `ssl_sat.compare` knows runs. data: what it was tested on."""
    from ssl_sat.evaluation.runs import Run

    node = item.node
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
