"""Figures of a comparison: every group with its interval and its cost, differences, the metric over a swept key."""

# G groups

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ssl_sat.evaluation.comparison import Difference
from ssl_sat.evaluation.detectable import mean_of
from ssl_sat.evaluation.runs import Group, labels_of
from ssl_sat.report.figures import _COLOURS, _MARKERS, _bare, _figure, _plain, _stamped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COSTS = (
    ("parameters", "million parameters", 1e6),
    ("gflops", "GFLOPs an image", 1.0),
    ("training_seconds", "minutes of training", 60.0),
)


def overview(rows: Sequence[Mapping[str, Any]], groups: Sequence[Group], metric: str, *, demo: bool = False) -> Figure:
    """Left: the metric of each group with its interval, its runs as light dots. Right: the metric over each cost."""
    order = sorted(range(len(rows)), key=lambda at: rows[at][metric])
    costs = [cost for cost in _COSTS if len({row[cost[0]] for row in rows} - {None}) > 1]
    figure = _figure(5.4 + 2.6 * len(costs), max(3.0, 0.45 * len(rows) + 1.2))
    first, *others = figure.subplots(1, 1 + len(costs), squeeze=False, width_ratios=[1.6, *[1.0] * len(costs)])[0]
    for y, at in enumerate(order):
        row, colour, marker = rows[at], _COLOURS[y % len(_COLOURS)], _MARKERS[y // len(_COLOURS) % len(_MARKERS)]
        single = list(groups[at].numbers(metric).values())
        first.scatter(single, [y - 0.25] * len(single), s=9, color=colour, linewidths=0, zorder=2)
        _with_interval(first, row, metric, y, colour, marker)
        for axes, (name, _, unit) in zip(others, costs, strict=True):
            if row[name] is not None:
                axes.vlines(row[name] / unit, *_ends(row, metric), color=colour, linewidth=1.4, alpha=0.6)
                axes.scatter(row[name] / unit, row[metric], s=36, color=colour, marker=marker, zorder=3)
    first.set_yticks(range(len(rows)), [_label(rows[at], rows) for at in order])
    first.set(xlabel=_plain(metric), ylim=(-0.6, len(rows) - 0.4))
    for axes, (name, label, unit) in zip(others, costs, strict=True):
        axes.set_xlabel(label)
        axes.sharey(others[0])
        axes.tick_params(labelleft=axes is others[0])
        _log_if_wide(axes, [row[name] / unit for row in rows if row[name] is not None])
    for axes in (first, *others):
        axes.grid(color="#E5E5E5", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        _bare(axes)
    first.set_xlim(*_bounded(metric, first.get_xlim()))
    if others:
        others[0].set(ylabel=_plain(metric), ylim=_bounded(metric, others[0].get_ylim()))
    figure.suptitle(_basis(rows), fontsize=9)
    return _stamped(figure, demo)


def _label(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    several = len({other["data"] for other in rows}) > 1 and str(row["data"]) not in str(row["runs"])
    text = f"{row['runs']} on {row['data']}" if several else str(row["runs"])
    return "\n".join(wrap(text, 38)[:3])


def _bounded(metric: str, ends: tuple[float, float]) -> tuple[float, float]:
    """Ends of an axis: a share has no room below 0 and above 1, whatever an interval of two seeds says."""
    if not metric.endswith(("accuracy", "f1", "map_macro", "map_micro")):
        return ends
    return max(ends[0], -0.02), min(ends[1], 1.02)


def _basis(rows: Sequence[Mapping[str, Any]]) -> str:
    found = sorted({str(row["interval"]) for row in rows})
    return f"95 % intervals: {'; '.join(found)}. Small dots: single runs"


def _ends(row: Mapping[str, Any], metric: str) -> tuple[float, float]:
    return (row[metric], row[metric]) if row["low"] is None else (row["low"], row["high"])


def _with_interval(axes: Axes, row: Mapping[str, Any], metric: str, y: float, colour: str, marker: str) -> None:
    low, high = _ends(row, metric)
    axes.hlines(y, low, high, color=colour, linewidth=2.2, zorder=3)
    axes.scatter(row[metric], y, s=42, color=colour, marker=marker, zorder=4, edgecolors="white", linewidths=0.8)


def _log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with a few plain numbers, where the values span much."""
    if not values or min(values) <= 0 or max(values) / min(values) < 8:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    wide = max(values) / min(values) > 200
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def differences(found: Sequence[Difference], metric: str, *, demo: bool = False) -> Figure:
    """Each difference with its interval over seeds, on the band of what could not have been detected."""
    labels = ["\n".join([*wrap(item.first, 46), *wrap(f"− {item.second}", 46)]) for item in reversed(found)]
    lines = max(label.count("\n") + 1 for label in labels)
    figure = _figure(8.6, max(0.46, 0.15 * lines + 0.1) * len(found) + 1.3)
    axes = figure.subplots()
    for y, item in enumerate(reversed(found)):
        value, half = item.over_seeds.mean, item.over_seeds.half_width
        if item.detectable is not None:
            axes.barh(y, 2 * item.detectable, left=-item.detectable, height=0.72, color="#E3E3E3", zorder=1)
        shown = "better" in item.verdict
        colour = _COLOURS[0] if shown else "#777777"
        if half is not None:
            axes.hlines(y, value - half, value + half, color=colour, linewidth=2, zorder=3)
        if item.patches_half_width is not None:
            ends = value - item.patches_half_width, value + item.patches_half_width
            axes.hlines(y - 0.2, *ends, color=_COLOURS[6], linewidth=1.2, zorder=2)
        axes.scatter(value, y, s=40, color=colour, zorder=4, edgecolors="white", linewidths=0.8)
    axes.set_yticks(range(len(found)), labels)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=f"difference of {_plain(metric)}", ylim=(-0.6, len(found) - 0.4))
    text = "grey: smaller than these runs can show; dark: 95 % over seeds; red: over test patches"
    axes.set_title(text, fontsize=8, loc="left")
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.use_sticky_edges = False
    axes.margins(x=0.04)
    _bare(axes)
    return _stamped(figure, demo)


def sensitivity(groups: Sequence[Group], key: str, metric: str, *, demo: bool = False) -> Figure:
    """The metric over the values of a key: a line for what else differs, dots are runs, bars intervals over seeds."""
    lines = _lines(groups, key)
    values = {value for points in lines.values() for value, _ in points}
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    places = {value: value for value in values} if numeric else {v: at for at, v in enumerate(sorted(values, key=str))}
    figure = _figure(6.4, 3.8 + 0.2 * (len(lines) if len(lines) > 1 else 0))
    axes = figure.subplots()
    for at, (name, points) in enumerate(sorted(lines.items())):
        _sensitivity_line(axes, [(places[value], group) for value, group in points], metric, name, at)
    if numeric:
        _log_if_wide(axes, [float(value) for value in values])
    if not numeric or len(places) <= 8:
        axes.set_xticks(list(places.values()), [_short(value) for value in places])
        axes.set_xticks([], minor=True)
    axes.margins(x=0.08)
    axes.set(xlabel=key, ylabel=_plain(metric), ylim=_bounded(metric, axes.get_ylim()))
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(lines) > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=8)
    _bare(axes)
    return _stamped(figure, demo)


def _lines(groups: Sequence[Group], key: str) -> dict[str, list[tuple[Any, Group]]]:
    """Groups that differ by the key alone, under what tells them from others."""
    others = [
        json.dumps([g.data, {k: v for k, v in g.runs[0].config.items() if k != key}], sort_keys=True) for g in groups
    ]
    unique = list(dict.fromkeys(others))
    labels = dict(zip(unique, labels_of([json.loads(text)[1] for text in unique]), strict=True))
    lines: dict[str, list[tuple[Any, Group]]] = {}
    for text, group in zip(others, groups, strict=True):
        lines.setdefault(labels[text], []).append((group.runs[0].config.get(key), group))
    return lines


def _sensitivity_line(axes: Axes, points: Sequence[tuple[float, Group]], metric: str, name: str, at: int) -> None:
    colour = _COLOURS[at % len(_COLOURS)]
    means = []
    for x, group in sorted(points, key=lambda point: point[0]):
        values = list(group.numbers(metric).values())
        found = mean_of(values)
        axes.scatter([x] * len(values), values, s=16, color=colour, alpha=0.4, linewidths=0)
        if found.half_width is not None:
            axes.vlines(x, found.mean - found.half_width, found.mean + found.half_width, color=colour, linewidth=1.6)
        means.append((x, found.mean))
    axes.plot(*zip(*means, strict=True), color=colour, marker="o", markersize=5, linewidth=1.4, label=name)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
