"""What an experiment found, in sentences made of its numbers, and drawn: means over seeds, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_sat.graph.collect import Finished, group_of
from ssl_sat.graph.paired import STARTS
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.tables import Row, Table, is_part
from ssl_sat.ood.spec import PROBE
from ssl_sat.report.tables import Column, Estimate, Value, cell

_MOST = 8  # sentences
_LINES = 60  # of a figure
_MAIN = ("test_accuracy", "test_map_macro")
_TITLES = {"test_accuracy": "test accuracy", "test_map_macro": "test mAP", "test_macro_f1": "test macro F1"}
_LEVEL = 0.05
_SIGNED, _PLAIN, _P = Column("", "", 3, signed=True), Column("", "", 3), Column("", "", 4, floor=True)


def is_demo(plan: Plan) -> bool:
    """Whether what is shown is no result."""
    return plan.demo or any(node.synthetic for node in plan.nodes)


def title_of(metric: str) -> str:
    """A metric's name for readers."""
    if metric.endswith("_auroc"):
        return f"AUROC of {metric.removesuffix('_auroc').replace('_', ' ')}"
    return _TITLES.get(metric, metric.replace("_", " "))


def findings(made: Sequence[Table]) -> list[str]:
    """The main differences, each with its interval and whether it has been shown; and detectors beside the probe."""
    by_name = {table.name: table.rows for table in made}
    told = [row for row in by_name.get("paired", []) if row["metric"] in (*_MAIN, *STARTS)]
    told.sort(key=lambda row: not str(row["verdict"]).endswith(" is better"))  # what was shown stands first
    lines = [_difference(row) for row in told]
    rest = len(lines) - _MOST
    lines = lines[:_MOST] + ([f"{rest} more comparisons are in the table of pairs."] if rest > 0 else [])
    near = by_name.get("near_ood", [])
    own = {fingerprint for row in near for fingerprint in _prints(row)}
    joined = by_name.get("ood_joined", [])
    told_above = {row["runs"] for row in joined if (prints := _prints(row)) and prints <= own}
    apart = [row for row in by_name.get("ood", []) if row["runs"] not in told_above]
    return (
        lines
        + [_of_classes(arm, near) for arm in dict.fromkeys(row["runs"] for row in near)]
        + _beside_probe(apart, joined)
    )


def _difference(row: Row) -> str:
    found = row["difference"]
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] != 1 else ''}"
    return (
        f"{row['first']} − {row['second']}: {title_of(str(row['metric']))} {cell(found, _SIGNED)} over {seeds}: "
        f"{row['verdict']}."
    )


def _beside_probe(rows: Sequence[Row], joined: Sequence[Row]) -> list[str]:
    """For each group the detector of the largest gain over the shortcut probe; p by Holm where seeds were joined.

    The largest of several gains is larger than its own interval says, so that without Holm's p no verdict is given.
    """
    lines = []
    rows = [row for row in rows if not is_part(str(row["detector"]))]
    for runs in dict.fromkeys(row["runs"] for row in rows):
        adjusted = [row for row in joined if row["runs"] == runs and row.get("gain") is not None]
        plain = [{**row, "gain": row["gain_over_probe"], "p": None} for row in rows if row["runs"] == runs]
        own = adjusted or [row for row in plain if row["gain"] is not None]
        if own:
            lines.append(_of_detectors(str(runs), own))
    return lines[:_MOST]


def _prints(row: Row) -> set[str]:
    return {*str(row.get("fingerprints", "")).split()}


def _of_classes(arm: Value, rows: Sequence[Row]) -> str:
    """`near: over 10 held-out classes, of 18 detectors vim has the largest mean AUROC, .78 [.73, .82], ...`"""
    own = [row for row in rows if row["runs"] == arm]
    detectors = [row for row in own if row.get("gain") is not None]
    best = max(detectors, key=lambda row: _value(row["auroc"]) or 0.0)
    probe = next(row for row in own if row["detector"] == PROBE.replace("_", " "))
    return (
        f"{arm}: over {best['classes']} classes held out in turn, of {len(detectors)} detectors {best['detector']} has "
        f"the largest mean AUROC, {cell(best['auroc'], _PLAIN)} (worst class {best['worst']}); the shortcut probe has "
        f"{cell(probe['auroc'], _PLAIN)}, {best['detector']} over it {cell(best['gain'], _SIGNED)}. Chosen by this "
        f"very number; what a choice is worth on other classes stands above the table."
    )


def _of_detectors(runs: str, rows: Sequence[Row]) -> str:
    """`far: of 6 detectors knn (AUROC .93) gains most over the shortcut probe: +.12 [.10, .14], p (Holm) .001: it beats
    the probe.`
    """
    best = max(rows, key=lambda row: _value(row["gain"]) or 0.0)
    gain, p, count = best["gain"], _value(best["p"]), len(rows)
    name = f"{best['detector']} (AUROC {cell(best['auroc'], _PLAIN)})"
    if count == 1 and p is None:
        return f"{runs}: {name} {_verdict(gain)} the shortcut probe: {cell(gain, _SIGNED)}."
    most = f"{runs}: of {count} detectors {name} gains most over the shortcut probe: {cell(gain, _SIGNED)}"
    if p is None:
        return f"{most}, not adjusted for the choice among {count}."
    said = _verdict(gain) if p < _LEVEL else "is not shown to beat"
    return f"{most}, p (Holm) {cell(best['p'], _P)}: it {said} the probe."


def _verdict(gain: Value) -> str:
    low, high = (gain.low, gain.high) if isinstance(gain, Estimate) else (None, None)
    return "beats" if (low or 0) > 0 else "does worse than" if (high or 0) < 0 else "is not shown to beat"


def _value(value: Any) -> float | None:
    return value.value if isinstance(value, Estimate) else value


def draw(folder: Path, plan: Plan, items: Sequence[Finished], made: Sequence[Table]) -> dict[str, Path]:
    """Draw means and differences as PNG, PDF and SVG; return the PNG by name."""
    drawn: dict[str, Any] = {}
    rows = {table.name: table.rows for table in made}
    demo = is_demo(plan)
    for metric in (*_MAIN, *STARTS):
        pairs = [row for row in rows.get("paired", []) if row["metric"] == metric]
        results = [row for name in ("results", "probes") for row in rows.get(name, []) if row.get(metric) is not None]
        if len(results) > 1 and (pairs or metric in _MAIN):  # starts that are the same are no figure
            lines = [_line(str(row["runs"]), row[metric], _seeds(items, str(row["runs"]), metric)) for row in results]
            drawn[metric] = _figure(lines, title_of(metric), demo)
        if pairs:
            lines = [_line(f"{row['first']} − {row['second']}", row["difference"], ()) for row in pairs]
            drawn[f"{metric}_paired"] = _figure(lines, f"difference of {title_of(metric)}", demo, zero=True)
    aurocs = [row for row in rows.get("ood", []) if not is_part(str(row["detector"]))]
    if aurocs:
        lines = [
            _line(
                f"{row['detector']}, {row['runs']}", row["auroc"],
                _seeds(items, str(row["runs"]), f"{str(row['detector']).replace(' ', '_')}_auroc"),
                apart=row["detector"] == PROBE.replace("_", " "),
            )
            for row in aurocs
        ]  # fmt: skip
        drawn["auroc"] = _figure(lines, "AUROC (grey: shortcut probe)", demo)
    return _saved(folder, drawn)


def _line(label: str, value: Any, seeds: tuple[float, ...], apart: bool = False) -> Any:
    from ssl_sat.report.summary_figures import Line

    found = value if isinstance(value, Estimate) else Estimate(float(value), None, None)
    return Line(label, found.value, found.low, found.high, seeds, apart)


def _seeds(items: Sequence[Finished], group: str, metric: str) -> tuple[float, ...]:
    return tuple(float(i.metrics[metric]) for i in items if group_of(i.node) == group and metric in i.metrics)


def _figure(lines: Sequence[Any], xlabel: str, demo: bool, zero: bool = False) -> Any:
    from ssl_sat.report.summary_figures import intervals

    return intervals(lines[:_LINES], xlabel=xlabel, zero=zero, demo=demo)


def _saved(folder: Path, drawn: dict[str, Any]) -> dict[str, Path]:
    if not drawn:
        return {}
    from ssl_sat.report.figures import save

    folder.mkdir(parents=True, exist_ok=True)
    return {name: save(figure, folder / name)[0] for name, figure in drawn.items()}
