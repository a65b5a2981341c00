"""Figures of a report. Built on matplotlib's Figure objects (no pyplot, no global state), the same bytes every time.

Every function returns a Figure; `save` writes it as PNG, PDF and SVG without time stamps. `demo=True` stamps DEMO DATA
over the whole figure. Colours are told apart by colour-blind readers (Tol 2021, scheme 'muted'); OOD is black.
"""

# N samples, K classes

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#E69F00",
)  # fmt: skip
_MARKERS = "os^Dv"
_ID, _OOD = "#4477AA", "#BB5566"
_STAMP = "DEMO DATA"

Series = tuple[Sequence[float], Sequence[float]]


def save(figure: Figure, stem: Path, dpi: int = 150) -> list[Path]:
    """Write `<stem>.png`, `.pdf` and `.svg`; no date and no program name go into the files."""
    from matplotlib import rc_context

    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".pdf", ".svg")]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: a second drawing would move the axes a little
    figure.savefig(paths[0], dpi=dpi, metadata={"Software": None})
    figure.savefig(paths[1], metadata={"Creator": None, "Producer": None, "CreationDate": None})
    with rc_context({"svg.hashsalt": "ssl_sat"}):  # ids within the file are drawn at random otherwise
        figure.savefig(paths[2], metadata={"Creator": None, "Date": None})
    return paths


def confusion(
    counts_KK: NDArray[np.integer[Any]], classes: Sequence[str], *, title: str = "", demo: bool = False
) -> Figure:
    """Confusion matrix: colour = share of the true class (row), numbers = counts."""
    side = max(4.0, 0.45 * len(classes) + 2.2)
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 30:
        for row, column in np.ndindex(*counts_KK.shape):
            if counts_KK[row, column]:
                colour = "white" if share_KK[row, column] > 0.5 else "black"
                text = f"{counts_KK[row, column]}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    ticks = np.arange(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(image, ax=axes, fraction=0.05, label="share of the true class")
    return _stamped(figure, demo)


def training_curves(
    panels: Mapping[str, Mapping[str, Series]],
    *,
    xlabel: str = "epoch",
    floors: Mapping[str, float] | None = None,
    title: str = "",
    demo: bool = False,
) -> Figure:
    """One panel per quantity, one line (xs, ys) per series; `floors` draws the mathematical minimum of a panel."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _figure(4.2 * columns + 0.3, 3.2 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (quantity, lines) in zip(grid, panels.items(), strict=False):
        for at, (name, (xs, ys)) in enumerate(lines.items()):
            marker = "o" if len(xs) <= 25 else ""
            colour = _COLOURS[(0, 6, 3, 9, 1, 8)[at % 6]]
            axes.plot(xs, ys, color=colour, linewidth=1.5, marker=marker, markersize=3, label=_plain(name))
        if floors and quantity in floors:
            axes.axhline(floors[quantity], color="#999999", linestyle=":", linewidth=1, label="floor")
        axes.set(xlabel=xlabel, ylabel=_plain(quantity))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)
        if len(lines) > 1 or (floors and quantity in floors):
            axes.legend(frameon=False)
        _bare(axes)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return _stamped(figure, demo)


def view_grid(
    images_RKSS3: NDArray[np.floating[Any]],
    *,
    rows: Sequence[str],
    means_RKC: NDArray[np.floating[Any]] | None = None,
    bands: Sequence[str] = (),
    title: str = "",
    demo: bool = False,
) -> Figure:
    """One row a patch: its view of evaluation, then draws; with `means_RKC` each picture's mean value by band."""
    patches, pictures = images_RKSS3.shape[:2]
    spectra = means_RKC is not None
    figure = _figure(1.35 * pictures + (3.2 if spectra else 0), 1.45 * patches + 0.9)
    widths = [1.0] * pictures + ([2.2] if spectra else [])
    grid = figure.subplots(patches, len(widths), squeeze=False, width_ratios=widths)
    for row, name in enumerate(rows):
        for column in range(pictures):
            axes = grid[row, column]
            axes.imshow(images_RKSS3[row, column], vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title("evaluation" if column == 0 else f"draw {column}", fontsize=8)
        grid[row, 0].set_ylabel(name if len(name) <= 16 else f"...{name[-14:]}", fontsize=6)
        if means_RKC is not None:
            axes = grid[row, -1]
            axes.plot(means_RKC[row, 1:].T, color=_COLOURS[1], linewidth=0.9)
            axes.plot(means_RKC[row, 0], color="black", linewidth=1.4)
            axes.set_xticks(range(len(bands)), bands if row == patches - 1 else [""] * len(bands), rotation=90)
            axes.tick_params(labelsize=6)
            _bare(axes)
            if row == 0:
                axes.set_title("mean by band (black: evaluation)", fontsize=8)
    figure.suptitle("\n".join(line for part in title.split("\n") for line in wrap(part, 110)), fontsize=8)
    return _stamped(figure, demo)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _stamped(figure: Figure, demo: bool) -> Figure:
    if demo:
        width, height = figure.get_size_inches()
        text = figure.text(0.5, 0.5, _STAMP, ha="center", va="center", color="#CC0000", alpha=0.22, weight="bold")
        text.set(fontsize=float(7.5 * width), rotation=float(np.degrees(np.arctan2(height, width))) * 0.8, zorder=100)
        text.set_in_layout(False)
    return figure
