"""What pretraining runs cost and what their features tell, side by side: a row for each group of seeds.

All of it from artifacts. Accuracies come from metrics.json. Times come from provenance.json, so that they stand on the
page and in `tables/pretraining.md` and not in the experiment's metrics, which two runs share to the byte.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from ssl_sat.graph.collect import Finished, group_of
from ssl_sat.report.tables import Estimate

MEASURES = ("knn_accuracy", "linear_accuracy")
BASELINE = "simclr"
_ALIKE = ("encoder", "image_size", "batch_size", "accumulate", "cache_chunk", "trainer")


def pretraining_rows(items: Sequence[Finished]) -> list[dict[str, Any]]:
    """One row a group of pretraining runs that were watched: accuracies before and after, cost beside SimCLR's.

    cost: seconds an image, over those of SimCLR with the same encoder, data, batch and device; None where there is
    no such run. Means over seeds; the deviation is the sample's.
    """
    groups: dict[str, list[Finished]] = {}
    for item in items:
        if item.node.stage == "pretrain" and MEASURES[0] in item.metrics:
            groups.setdefault(group_of(item.node), []).append(item)
    baselines: dict[str, float] = {}
    for members in groups.values():
        if _method(members[0]) == BASELINE:
            baselines.setdefault(_circumstances(members[0]), _seconds(members))
    return [_row(name, members, baselines) for name, members in groups.items()]


def _row(name: str, members: Sequence[Finished], baselines: dict[str, float]) -> dict[str, Any]:
    base = baselines.get(_circumstances(members[0]))
    row: dict[str, Any] = {"runs": name, "method": _method(members[0]), "seeds": len(members)}
    row["initialisation"] = members[0].metrics.get("initialisation")
    for measure in MEASURES:
        label = measure.removesuffix("_accuracy")
        row[f"{label} untrained"] = _spread([m.metrics.get(f"{measure}_untrained") for m in members])
        row[label] = _spread([m.metrics.get(measure) for m in members])
        row[f"{label} gain"] = _gain(members, f"{measure}_gain")
    row["n"] = members[0].metrics.get("watched_patches")
    row["cost / SimCLR"] = None if base is None else round(_seconds(members) / base, 2)
    row["fingerprints"] = " ".join(member.short for member in members)
    return row


def _gain(members: Sequence[Finished], metric: str) -> Estimate | None:
    """Mean over seeds with Student's interval; a gain compares each seed with itself, so that this one is paired."""
    from ssl_sat.evaluation.detectable import mean_of

    values = [member.metrics.get(metric) for member in members]
    if None in values:
        return None
    found = mean_of([float(value) for value in values])  # type: ignore[arg-type]
    half = found.half_width
    ends = (None, None) if half is None else (found.mean - half, found.mean + half)
    return Estimate(found.mean, *ends)


def _method(item: Finished) -> str:
    return str(item.node.config["method"]["name"])


def _circumstances(item: Finished) -> str:
    """What must be the same for two speeds to be compared."""
    config = {key: item.node.config.get(key) for key in _ALIKE}
    machine = [item.provenance.get(key) for key in ("hostname", "device")]
    return json.dumps([config, item.node.inputs.get("data"), machine], sort_keys=True)


def _seconds(members: Sequence[Finished]) -> float:
    """Seconds an image, the median over seeds."""
    return statistics.median(1.0 / m.provenance["speed"]["images_per_second"] for m in members)


def _spread(values: Sequence[float | None]) -> str | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = f"{statistics.fmean(known):.3f}"
    return f"{mean} ± {statistics.stdev(known):.3f}" if len(known) > 1 else mean
