"""Out-of-distribution results of an experiment: over seeds, and over the classes that were held out one by one.

Seeds of one model on the same patches are joined by DeLong's variance with the seeds as an outer level. Near-OOD is the
mean over held-out classes: each class is one value (its mean over seeds), and the interval is Student's t over classes,
for another class is what the number speaks of. Scores are read from the artifacts' scores.parquet alone.
"""

# C held-out classes, S seeds

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_sat.graph.about import About, about
from ssl_sat.graph.collect import Finished, group_of
from ssl_sat.ood.spec import PROBE
from ssl_sat.report.ood_table import COLUMNS
from ssl_sat.report.tables import Column, Estimate, Value

Row = dict[str, Value]
_MANY = 3  # classes held out one by one from which their mean is reported
JOINED = (
    Column("runs", "runs"),
    *(column for column in COLUMNS if column.key in (
        "detector", "direction", "n_id", "n_ood", "auroc", "gain", "p", "detectable", "orientation", "seeds", "passes",
        "sd_over_masks")),
    Column("initialisation", "initialisation"),
    Column("fingerprints", "fingerprints"),
)  # fmt: skip
NEAR = (
    Column("runs", "runs"),
    Column("detector", "detector"),
    Column("direction", "higher score means"),
    Column("classes", "classes"),
    Column("n_id", "n ID, mean"),
    Column("n_ood", "n OOD, mean"),
    Column("auroc", "AUROC, mean over classes [95 %]"),
    Column("worst", "worst class"),
    Column("best", "best class"),
    Column("gain", "gain over probe [95 %]", signed=True),
    Column("fpr_id_at_95tpr_ood", "FPR of ID at 95 % TPR of OOD"),
    Column("seeds", "seeds"),
    Column("passes", "T"),
    Column("initialisation", "initialisation"),
    Column("fingerprints", "fingerprints"),
)


@dataclass(frozen=True)
class Joined:
    """One model on one OOD set: the finished evaluations of its seeds. held_out: classes it was trained without."""

    name: str
    held_out: str
    seeds: Sequence[Finished]
    rows: Mapping[str, Row]  # by detector


def joined(items: Sequence[Finished]) -> list[Joined]:
    """Evaluations of an experiment, their seeds together."""
    by_id = {item.node.id: item for item in items}
    groups: dict[str, list[Finished]] = {}
    for item in items:
        if item.node.stage == "ood_eval":
            groups.setdefault(group_of(item.node), []).append(item)
    return [
        Joined(name, _held_out(members[0], by_id), members, _rows(name, members, about(members[0], by_id)))
        for name, members in groups.items()
    ]


def _held_out(item: Finished, by_id: Mapping[str, Finished]) -> str:
    """The classes that the evaluated model did not know, where they are the OOD set; '' otherwise."""
    model = by_id.get(item.node.needs.get("model", ""))
    if item.node.config.get("tier") != "held_out" or model is None:
        return ""
    return "+".join(model.node.config.get("held_out", ()))


def _rows(name: str, members: Sequence[Finished], facts: About) -> dict[str, Row]:
    """A row a detector, the probe last; AUROC, gain and Holm's p over the seeds."""
    from ssl_sat.ood.comparisons import compare
    from ssl_sat.ood.delong import delong_over_seeds
    from ssl_sat.ood.metrics import SUSPECT_ORIENTATION

    pairs = _scores(members)
    gains = {found.first: found for found in compare(pairs, against=PROBE)}
    rows: dict[str, Row] = {}
    for detector in sorted(pairs, key=lambda d: (d == PROBE, d)):
        area, metrics = delong_over_seeds(pairs[detector]), members[0].metrics
        row: Row = {
            "runs": name,
            "detector": detector.replace("_", " "),
            "direction": "OOD",
            "n_id": metrics["n_id"],
            "n_ood": metrics["n_ood"],
            "auroc": Estimate(area.value, area.low, area.high),
            "orientation": SUSPECT_ORIENTATION if area.value + 3 * area.se < 0.5 else "ok",
            "sd_over_masks": metrics.get(f"{detector}_auroc_sd_over_masks"),
            "fpr_id_at_95tpr_ood": statistics.fmean(m.metrics[f"{detector}_fpr_id_at_95tpr_ood"] for m in members),
            "seeds": len(members),
            "passes": metrics.get(f"{detector}_passes"),
            "initialisation": facts.initialisation,
            "fingerprints": " ".join(member.short for member in members),
        }
        if detector in gains:
            gain = gains[detector]
            row |= {"gain": Estimate(gain.difference.value, gain.difference.low, gain.difference.high)}
            row |= {"p": gain.p_holm, "detectable": gain.smallest}
        rows[detector] = row
    return rows


def _scores(members: Sequence[Finished]) -> dict[str, list[Any]]:
    """Typed scores (ID, OOD) a seed of every detector that all seeds have."""
    import pyarrow.parquet as pq

    from ssl_sat.ood.score import Scores

    tables = [pq.read_table(member.path / "scores.parquet") for member in members]
    ids = [table["id"].to_pylist() for table in tables]
    if any(other != ids[0] for other in ids):
        raise ValueError(f"seeds of {members[0].node.id} scored other patches: give them the same `seed` of ood_eval")
    names = [name for name in tables[0].column_names if name not in ("id", "set", "class")]
    outside = [[kind == "ood" for kind in table["set"].to_pylist()] for table in tables]
    pairs: dict[str, list[Any]] = {}
    for name in [name for name in names if all(name in table.column_names for table in tables)]:
        for table, is_ood in zip(tables, outside, strict=True):
            values = table[name].to_pylist()
            sides = [[v for v, o in zip(values, is_ood, strict=True) if o is side] for side in (False, True)]
            pairs.setdefault(name, []).append(tuple(Scores(name, side) for side in sides))  # type: ignore[arg-type]
    return pairs


def near_ood(found: Sequence[Joined]) -> dict[str, list[Joined]]:
    """Evaluations whose OOD set is a held-out class, by experiment arm: those that differ in the class alone."""
    arms: dict[str, list[Joined]] = {}
    for one in found:
        if one.held_out:
            parts = [part for part in one.name.split("-") if part not in (one.held_out, *one.held_out.split("+"))]
            arms.setdefault("-".join(parts), []).append(one)
    return {name: members for name, members in arms.items() if len(members) >= _MANY}


def near_rows(arm: str, members: Sequence[Joined]) -> list[Row]:
    """A row a detector: mean over held-out classes, by falling AUROC, the probe last."""
    detectors = [name for name in members[0].rows if all(name in member.rows for member in members)]
    rows: list[Row] = []
    for name in detectors:
        own = [member.rows[name] for member in members]
        areas = {member.held_out: _value(member.rows[name]["auroc"]) for member in members}
        row: Row = {
            **{key: own[0][key] for key in ("detector", "direction", "seeds", "passes", "initialisation")},
            "runs": arm,
            "classes": len(members),
            "n_id": round(statistics.fmean(int(r["n_id"]) for r in own)),  # type: ignore[arg-type]
            "n_ood": round(statistics.fmean(int(r["n_ood"]) for r in own)),  # type: ignore[arg-type]
            "auroc": _over_classes(list(areas.values())),
            "worst": "{} {:.3f}".format(*min(areas.items(), key=lambda item: item[1])),
            "best": "{} {:.3f}".format(*max(areas.items(), key=lambda item: item[1])),
            "fpr_id_at_95tpr_ood": statistics.fmean(_value(r["fpr_id_at_95tpr_ood"]) for r in own),
            "fingerprints": " ".join(str(r["fingerprints"]) for r in own),
        }
        if all("gain" in r for r in own):
            row["gain"] = _over_classes([_value(r["gain"]) for r in own], least=-1.0)
        rows.append(row)
    return sorted(rows, key=lambda row: (row["detector"] == PROBE.replace("_", " "), -_value(row["auroc"])))


def chosen_line(arm: str, members: Sequence[Joined]) -> str:
    """What a choice of detector is worth: chosen on every second class by name, reported on the others."""
    ordered = sorted(members, key=lambda member: member.held_out)
    choose, report = ordered[::2], ordered[1::2]
    detectors = [name for name in ordered[0].rows if name != PROBE and all(name in m.rows for m in ordered)]

    def mean(of: Sequence[Joined], detector: str) -> Estimate:
        return _over_classes([_value(member.rows[detector]["auroc"]) for member in of])

    best = max(detectors, key=lambda name: mean(choose, name).value)
    value = mean(report, best)
    interval = "" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return (
        f"{arm}: chosen on {', '.join(m.held_out for m in choose)}: {best.replace('_', ' ')} "
        f"({mean(choose, best).value:.3f} there). On the other classes ({', '.join(m.held_out for m in report)}): "
        f"AUROC {value.value:.3f}{interval}."
    )


def _value(value: Value) -> float:
    return value.value if isinstance(value, Estimate) else float(value)  # type: ignore[arg-type]


def _over_classes(values: Sequence[float], least: float = 0.0) -> Estimate:
    """Mean with Student's t interval, C - 1 degrees of freedom, cut to what can be: `least` to 1."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, max(least, mean - half), min(1.0, mean + half))


def ood_tables(items: Sequence[Finished]) -> list[tuple[str, str, str, tuple[Column, ...], list[Row]]]:
    """Tables of an experiment with evaluations: (name, title, caption, columns, rows)."""
    found = joined(items)
    if not found:
        return []
    caption = "AUROC with DeLong's 95 % interval, seeds as an outer level; gain over the shortcut probe, p by Holm."
    rows = [row for one in found for row in one.rows.values()]
    made = [("ood_joined", "Out of distribution, seeds joined", caption, JOINED, rows)]
    arms = near_ood(found)
    if arms:
        lines = " ".join(chosen_line(arm, members) for arm, members in arms.items())
        caption = f"Each class held out in turn: mean over classes with Student's t interval. {lines}"
        rows = [row for arm, members in arms.items() for row in near_rows(arm, members)]
        made.append(("near_ood", "Near-OOD: each class held out in turn", caption, NEAR, rows))
    return made


def near_figures(folder: Path, items: Sequence[Finished], demo: bool) -> dict[str, Path]:
    """Detector by held-out class as PNG and PDF; the PNG of each arm by name, near_ood first."""
    from ssl_sat.report import figures, ood_figures

    drawn = {}
    for at, (arm, members) in enumerate(near_ood(joined(items)).items()):
        detectors = [name for name in members[0].rows if all(name in member.rows for member in members)]
        areas = {name: {m.held_out: _value(m.rows[name]["auroc"]) for m in members} for name in detectors}
        figure = ood_figures.near_ood(areas, title=f"{arm}: AUROC by held-out class", demo=demo)
        name = f"near_ood{at or ''}"
        folder.mkdir(parents=True, exist_ok=True)
        drawn[name] = figures.save(figure, folder / name)[0]
    return drawn
