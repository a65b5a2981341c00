"""Figures of a classifier: classes one by one, calibration, the worst mistakes."""

# K classes, M mistakes, B bins, S pixels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.report.figures import _bare, _figure, _stamped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DARK, _LIGHT, _BAD = "#332288", "#CC6677", "#AA3377"


def class_dots(
    classes: Sequence[str],
    support_K: Sequence[int],
    measures: Mapping[str, NDArray[np.floating[Any]]],
    intervals: NDArray[np.floating[Any]] | None = None,
    *,
    title: str = "",
    demo: bool = False,
) -> Figure:
    """One row a class, lowest first: a dot a measure; `intervals` (2, K) belong to the first of at most three."""
    first = next(iter(measures.values()))
    order = np.argsort(-np.nan_to_num(first, nan=2.0), kind="stable")
    figure = _figure(7.0, 0.27 * len(classes) + 1.35)
    axes = figure.subplots()
    y = np.arange(len(classes))
    for at, (name, values) in enumerate(measures.items()):
        style = ({"marker": "o", "s": 34}, {"marker": "D", "s": 22}, {"marker": "|", "s": 60})[at]
        colour = (_DARK, _LIGHT, "#117733")[at]
        axes.scatter(values[order], y, color=colour, label=name, zorder=3, linewidths=1.2, **style)  # type: ignore[arg-type]
    if intervals is not None:
        low, high = intervals[0][order], intervals[1][order]
        axes.hlines(y, low, high, color=_DARK, linewidth=1.6, alpha=0.55, zorder=2, label="95 % interval")
    axes.set_yticks(y, [f"{shorten(classes[k], 46, placeholder=' …')}  ({support_K[k]:,})" for k in order], fontsize=8)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(classes) - 0.3))
    axes.grid(axis="both", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle("\n".join(wrap(title, 95)), fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    _bare(axes)
    return _stamped(figure, demo)


def reliability(
    panels: Mapping[str, tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]],
    *,
    bins: int = 15,
    xlabel: str = "confidence",
    ylabel: str = "accuracy",
    title: str = "",
    demo: bool = False,
) -> Figure:
    """One panel each of (confidence, correct): what came true against what was said; area of a dot ~ its samples."""
    figure = _figure(3.5 * len(panels) + 0.3, 4.6)
    grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=[4, 1], sharex=True)
    for column, (name, (confidence_N, correct_N)) in enumerate(panels.items()):
        _reliability_panel(grid[0, column], confidence_N, correct_N, bins)
        grid[0, column].set_title(name, fontsize=9, loc="left")
        edges = np.linspace(0, 1, bins + 1)
        share, _ = np.histogram(confidence_N, edges)
        grid[1, column].bar(
            edges[:-1], share / len(confidence_N), width=1 / bins, align="edge", color="#88CCEE", edgecolor="white"
        )
        grid[1, column].set(xlabel=xlabel)
        _bare(grid[0, column])
        _bare(grid[1, column])
    grid[0, 0].set_ylabel(ylabel)
    grid[1, 0].set_ylabel("share")
    figure.suptitle(title, fontsize=10)
    return _stamped(figure, demo)


def _reliability_panel(
    axes: Axes, confidence_N: NDArray[np.floating[Any]], correct_N: NDArray[np.bool_], bins: int
) -> None:
    at_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    count_B = np.bincount(at_N, minlength=bins)
    used = count_B > 0
    said_B = np.bincount(at_N, weights=confidence_N, minlength=bins)[used] / count_B[used]
    true_B = np.bincount(at_N, weights=correct_N.astype(float), minlength=bins)[used] / count_B[used]
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    axes.vlines(said_B, said_B, true_B, color=_LIGHT, linewidth=1.4, alpha=0.8)
    axes.plot(said_B, true_B, color=_DARK, linewidth=1.0, alpha=0.6)
    axes.scatter(said_B, true_B, s=12 + 120 * count_B[used] / count_B.sum(), color=_DARK, zorder=3, linewidths=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def mistakes(
    pictures_MSS3: Sequence[NDArray[np.floating[Any]]],
    captions: Sequence[tuple[str, str, float]],
    *,
    columns: int = 6,
    title: str = "",
    demo: bool = False,
) -> Figure:
    """Patches with what they are, what they were taken for, and how surely: (true, predicted, confidence)."""
    rows = max(1, -(-len(pictures_MSS3) // columns))
    columns = min(columns, max(1, len(pictures_MSS3)))
    figure = _figure(max(1.55 * columns, 4.5), 2.02 * rows + 0.4)
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.02)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, picture, (true, said, sure) in zip(grid, pictures_MSS3, captions, strict=False):
        axes.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(shorten(true, 24, placeholder="…"), fontsize=7, pad=2)
        axes.set_xlabel(f"{shorten(said, 24, placeholder='…')}\n{sure:.3f}", fontsize=7, color=_BAD, labelpad=2)
    for axes in grid[len(pictures_MSS3) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=9)
    return _stamped(figure, demo)
