"""Numbers of many runs at a glance: a line a group, mean and interval, the seeds as dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ssl_sat.report.figures import _ID, _OOD, _bare, _figure, _stamped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 0.28  # of a line


class Line(NamedTuple):
    """values: one a seed; low, high: ends of the interval of their mean, None where there is none. apart: in grey."""

    label: str
    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...] = ()
    apart: bool = False


def intervals(lines: Sequence[Line], *, xlabel: str, zero: bool = False, title: str = "", demo: bool = False) -> Figure:
    """Means as diamonds with their 95 % intervals, seeds as dots above them; `zero` draws the line of no difference.

    With `zero`, an interval that leaves it out is drawn in full and the others in outline.
    """
    figure = _figure(8.0, 1.2 + _INCHES * len(lines))
    axes = figure.subplots()
    for at, line in enumerate(lines):
        y = len(lines) - 1 - at
        shown = not zero or (line.low is not None and line.high is not None and (line.low > 0 or line.high < 0))
        colour = "#777777" if line.apart else _OOD if zero and line.mean < 0 else _ID
        if line.low is not None and line.high is not None:
            axes.plot([line.low, line.high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
        face = colour if shown else "white"
        axes.plot([line.mean], [y], marker="D", markersize=5.5, color=colour, markerfacecolor=face, linestyle="")
        if len(line.values) > 1:
            axes.plot(line.values, [y + 0.24] * len(line.values), ".", color=colour, markersize=4, alpha=0.8)
    if zero:
        axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [_short(line.label) for line in reversed(lines)], fontsize=8)
    axes.set(xlabel=xlabel, ylim=(-0.6, len(lines) - 0.4))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    _bare(axes)
    figure.suptitle(title, fontsize=11)
    return _stamped(figure, demo)


def _short(text: str, most: int = 70) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
