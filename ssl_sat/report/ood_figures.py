"""Figures of an out-of-distribution evaluation, in the style and with the colours of `figures`.

ID is blue, OOD red and hatched, the shortcut probe black and dashed. Detectors keep the order of their AUROC in a
legend; lines are told apart by dash as well as by colour.
"""

# N samples, n of them ID and m OOD

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood import selective
from ssl_sat.ood.metrics import aupr_out, auroc, delong, precision_recall_curve, roc_curve
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import PROBE
from ssl_sat.report.figures import _COLOURS, _ID, _OOD, _bare, _figure, _plain, _stamped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
Pairs = Mapping[str, tuple[Scores, Scores]]
Array = NDArray[np.float64]


_LETTERS = 18  # of a caption below a picture of a bit more than an inch


def score_histograms(pairs: Pairs, thresholds: Mapping[str, float], *, title: str = "", demo: bool = False) -> Figure:
    """One panel a detector: densities of both groups on common bins, and what the threshold accepts and rejects.

    The outermost 0.2 % of the scores are put into the end bins.
    """
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = _figure(3.1 * columns + 0.3, 2.35 * rows + 0.8)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, pair) in zip(grid, pairs.items(), strict=False):
        _histogram(axes, *pair, thresholds.get(name))
        axes.set_title(_plain(name), fontsize=10)
    for at, axes in enumerate(grid):
        axes.set_visible(at < len(pairs))
        if at + columns >= len(pairs):
            axes.set_xlabel("score (higher = more OOD)")
        if at % columns == 0:
            axes.set_ylabel("density")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, fontsize=11)
    return _stamped(figure, demo)


def _histogram(axes: Axes, id_scores: Scores, ood_scores: Scores, threshold: float | None) -> None:
    low, high = np.quantile(np.concatenate([id_scores.values, ood_scores.values]), [0.002, 0.998])
    if low == high:
        low, high = low - 0.5, high + 0.5
    smaller = min(len(id_scores), len(ood_scores))
    bins = np.linspace(low, high, 1 + int(np.clip(2 * np.sqrt(smaller), 10, 40))).tolist()
    for scores, name, colour, hatch in ((id_scores, "ID", _ID, ""), (ood_scores, "OOD", _OOD, "//")):
        inside = np.clip(scores.values, low, high)
        axes.hist(inside, bins, density=True, color=colour, alpha=0.25, hatch=hatch, edgecolor=colour, linewidth=0)
        label = f"{name} (n = {len(scores):,})"
        axes.hist(inside, bins, density=True, histtype="step", color=colour, linewidth=1.3, label=label)
    if threshold is not None:
        line = {"color": "black", "linestyle": "--", "linewidth": 1.1, "label": "threshold"}
        axes.axvline(np.clip(threshold, low, high), ymax=0.78, **line)  # type: ignore[arg-type]
        accepted, rejected = (id_scores.values <= threshold).mean(), (ood_scores.values > threshold).mean()
        text = f"ID accepted {accepted:.0%}\nOOD rejected {rejected:.0%}"
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the text above the bars
        axes.text(0.98, 0.98, text, transform=axes.transAxes, ha="right", va="top", fontsize=7)
    axes.margins(x=0)
    axes.locator_params(axis="x", nbins=5)
    axes.ticklabel_format(style="sci", scilimits=(-2, 4))
    axes.tick_params(labelsize=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(7)
    _bare(axes)


def roc_curves(pairs: Pairs, *, title: str = "", demo: bool = False) -> Figure:
    """ROC curves, OOD positive, on linear and on logarithmic false-positive rates; AUROC with DeLong's interval."""
    figure = _figure(11.5, 4.9)
    whole, few = figure.subplots(1, 2)
    smallest = 1 / max(len(pair[0]) for pair in pairs.values())
    whole.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    chance = np.geomspace(smallest, 1, 50)
    few.plot(chance, chance, color="#999999", linewidth=0.8, linestyle=":")
    for (name, pair), style in _ordered(pairs, auroc):
        area = delong(*pair)
        fpr, tpr = roc_curve(*pair)
        whole.plot(fpr, tpr, label=f"{_plain(name)}  {area.value:.3f} [{area.low:.3f}, {area.high:.3f}]", **style)
        few.plot(np.maximum(fpr, smallest), tpr, **style)
    for axes in (whole, few):
        axes.set(xlabel="share of ID flagged (false-positive rate)", ylim=(-0.01, 1.01))
        _bare(axes)
    whole.set(ylabel="share of OOD flagged (true-positive rate)", xlim=(-0.01, 1.01))
    few.set(xscale="log", xlim=(smallest, 1))
    _legend(figure, whole, "AUROC [95 %]", pairs)
    figure.suptitle(title, fontsize=11)
    return _stamped(figure, demo)


def precision_recall(pairs: Pairs, *, title: str = "", demo: bool = False) -> Figure:
    """Precision over recall with OOD as the positive class; the legend gives the area (average precision)."""
    figure = _figure(8.4, 4.6)
    axes = figure.subplots()
    some = next(iter(pairs.values()))
    share = len(some[1]) / (len(some[0]) + len(some[1]))
    axes.axhline(share, color="#999999", linewidth=0.8, linestyle=":")
    axes.text(0.5, share - 0.012, f"chance {share:.3f}", color="#666666", fontsize=8, va="top", ha="center")
    lowest = share
    for (name, pair), style in _ordered(pairs, aupr_out):
        recall, precision = precision_recall_curve(*pair)
        lowest = min(lowest, float(precision[recall > 0.02].min()))
        axes.plot(recall, precision, drawstyle="steps-pre", label=f"{_plain(name)}  {aupr_out(*pair):.3f}", **style)
    axes.set(xlabel="recall: share of OOD flagged", ylabel="precision: share of OOD among the flagged")
    axes.set(xlim=(-0.01, 1.01), ylim=(max(-0.01, lowest - 0.08), 1.02))
    _legend(figure, axes, "area (AUPR-out)", pairs)
    _bare(axes)
    figure.suptitle(title, fontsize=11)
    return _stamped(figure, demo)


def risk_coverage(pairs: Pairs, wrong_N: NDArray[np.bool_], *, title: str = "", demo: bool = False) -> Figure:
    """Error among the accepted against the share accepted, lowest scores first.

    wrong_N: which ID predictions are wrong. Left ID alone; right ID and OOD together, an accepted OOD sample being an
    error whatever was predicted.
    """
    figure = _figure(11.5, 4.6)
    alone, together = figure.subplots(1, 2)
    some = next(iter(pairs.values()))
    n, m = len(some[0]), len(some[1])
    both = np.concatenate([wrong_N, np.ones(m, bool)])

    def area(inside: Scores, outside: Scores) -> float:
        return -selective.risk_coverage_with_ood(inside, outside, wrong_N).aurc

    highest = [0.0, 0.0]
    for (name, (inside, outside)), style in _ordered(pairs, area):
        own, shared = (
            selective.risk_coverage(inside, wrong_N),
            selective.risk_coverage_with_ood(inside, outside, wrong_N),
        )
        alone.plot(own.coverage_N, own.risk_N, **style)
        seen = [found.risk_N[found.coverage_N >= 0.1].max() for found in (own, shared)]  # noise at the left end is cut
        highest = np.maximum(highest, seen).tolist()
        together.plot(shared.coverage_N, shared.risk_N, label=f"{_plain(name)}  {shared.aurc:.4f}", **style)
    for axes, errors, top in ((alone, wrong_N, highest[0]), (together, both, highest[1])):
        best = np.cumsum(np.sort(errors)) / np.arange(1, len(errors) + 1)
        axes.plot(np.arange(1, len(errors) + 1) / len(errors), best, color="#999999", linestyle=":", linewidth=1.2)
        axes.set(xlim=(0, 1.005), ylim=(0, 1.08 * top or 1), xlabel="coverage: share accepted")
        _bare(axes)
    alone.set(ylabel="risk: share of errors among the accepted")
    alone.set_title(f"ID alone (n = {n:,})", fontsize=9)
    together.set_title(f"ID and OOD (n = {n:,} + {m:,}): accepted OOD is an error", fontsize=9)
    _legend(figure, together, "area under the right curve\n(dotted: best possible)", pairs)
    figure.suptitle(title, fontsize=11)
    return _stamped(figure, demo)


@dataclass(frozen=True, eq=False)
class Cells:
    """Pictures (M, S, S, 3) in [0, 1] with each one's own class (None: unknown) and what the model said."""

    images_MSS3: NDArray[np.float32]
    own: Sequence[str | None]
    said: Sequence[str]


@dataclass(frozen=True, eq=False)
class FooledRow:
    """A detector, the OOD patches it accepts first, the ID patches it rejects first, the OOD share it accepts."""

    detector: str
    accepted: Cells
    rejected: Cells
    share: tuple[float, float, float] | None


def fooled(rows: Sequence[FooledRow], *, alpha: float, title: str = "", demo: bool = False) -> Figure:
    """One row a detector: OOD patches of the lowest scores, ID patches of the highest."""
    from matplotlib.lines import Line2D

    columns = max(len(row.accepted.said) for row in rows), max(len(row.rejected.said) for row in rows)
    total, gap = sum(columns), 0.35
    figure = _figure(1.15 * total + gap + 1.6, 1.42 * len(rows) + 1.0)
    grid = figure.subplots(
        len(rows), total + 1, squeeze=False, width_ratios=[1] * columns[0] + [gap] + [1] * columns[1]
    )
    for at, row in enumerate(rows):
        for first, cells, colour in ((0, row.accepted, _OOD), (columns[0] + 1, row.rejected, _ID)):
            for column in range(columns[0] if first == 0 else columns[1]):
                axes = grid[at, first + column]
                if column >= len(cells.said):
                    axes.set_visible(False)
                    continue
                axes.imshow(cells.images_MSS3[column], vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set(color=colour, linewidth=1.5)
                own, said = cells.own[column] or "", f"→ {cells.said[column]}"
                size = 6.5 * min(1.0, _LETTERS / max(len(own), len(said)))
                axes.set_xlabel(f"{own}\n{said}", fontsize=size, labelpad=2)
        grid[at, columns[0]].set_visible(False)
        share = (
            "" if row.share is None else f"\nOOD accepted\n{row.share[0]:.0%} [{row.share[1]:.0%}, {row.share[2]:.0%}]"
        )
        grid[at, 0].set_ylabel(f"{_plain(row.detector)}{share}", fontsize=7, rotation=0, ha="right", va="center")
    handles = [
        Line2D([], [], color=_OOD, marker="s", markerfacecolor="white", linestyle="", markersize=9, markeredgewidth=1.8,
               label="OOD, lowest scores: taken for in-distribution"),
        Line2D([], [], color=_ID, marker="s", markerfacecolor="white", linestyle="", markersize=9, markeredgewidth=1.8,
               label="ID, highest scores: taken for OOD"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(
        f"{title}: what fooled each detector (own class → predicted; accepted at alpha = {alpha:g})", fontsize=10
    )
    return _stamped(figure, demo)


def corruption_curves(
    panels: Mapping[str, Mapping[str, NDArray[np.floating[Any]]]], *, ylabel: str, title: str = "",
    chance: float | None = None, demo: bool = False,
) -> Figure:  # fmt: skip
    """One panel a corruption; a line a series, (S, 3) of value, low, high at severity 0 (none) to 5."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(2.9 * columns + 0.3, 2.35 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    names = list(next(iter(panels.values())))
    for axes, (corruption, lines) in zip(grid, panels.items(), strict=False):
        if chance is not None:
            axes.axhline(chance, color="#999999", linestyle=":", linewidth=0.8)
        for at, name in enumerate(names):
            values_S3 = np.asarray(lines[name], np.float64)
            style, severity = _style(name, at), np.arange(6 - len(values_S3), 6)
            axes.plot(severity, values_S3[:, 0], marker="o", markersize=3, label=_plain(name), **style)
            axes.fill_between(severity, values_S3[:, 1], values_S3[:, 2], color=style["color"], alpha=0.15, linewidth=0)
        axes.set_title(_plain(corruption), fontsize=10)
        axes.set_xticks(range(6))
        _bare(axes)
    for at, axes in enumerate(grid):
        axes.set_visible(at < len(panels))
        if at + columns >= len(panels):
            axes.set_xlabel("severity (0 = none)")
            axes.tick_params(labelbottom=True)
        if at % columns == 0:
            axes.set_ylabel(ylabel)
    if len(names) > 1:
        figure.legend(
            *grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(names)), frameon=False
        )
    figure.suptitle(title, fontsize=11)
    return _stamped(figure, demo)


def corruption_gallery(
    images_RKSS3: NDArray[np.floating[Any]], rows: Sequence[str], levels: Sequence[Sequence[float]], *, title: str = "",
    demo: bool = False,
) -> Figure:  # fmt: skip
    """One patch under every corruption (rows) at every severity (columns; the first is the patch itself)."""
    count, pictures = images_RKSS3.shape[:2]
    figure = _figure(1.3 * pictures + 1.2, 1.42 * count + 0.6)
    grid = figure.subplots(count, pictures + 1, squeeze=False, width_ratios=[0.85, *[1] * pictures])
    for row, name in enumerate(rows):
        grid[row, 0].axis("off")
        grid[row, 0].text(1, 0.5, _plain(name), fontsize=8, ha="right", va="center", transform=grid[row, 0].transAxes)
        for column in range(pictures):
            axes = grid[row, column + 1]
            axes.imshow(images_RKSS3[row, column], vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title("none" if column == 0 else f"severity {column}", fontsize=8)
            if column:
                axes.set_xlabel(f"{levels[row][column - 1]:g}", fontsize=7, labelpad=1)
    figure.suptitle(title, fontsize=9)
    return _stamped(figure, demo)


def _ordered(pairs: Pairs, area: Any) -> list[tuple[tuple[str, tuple[Scores, Scores]], dict[str, Any]]]:
    """Detectors from the largest area to the smallest, each with its line style, which goes by its place in `pairs`."""
    places = {name: at for at, name in enumerate(name for name in pairs if name != PROBE)}
    ranked = sorted(pairs.items(), key=lambda item: -area(*item[1]))
    return [(item, _style(item[0], places.get(item[0], 0))) for item in ranked]


def _style(name: str, at: int) -> dict[str, Any]:
    if name == PROBE:
        return {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.4}
    dash = _DASHES[at // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[at % len(_COLOURS)], "linestyle": dash, "linewidth": 1.5}


def _legend(figure: Figure, axes: Axes, head: str, pairs: Pairs) -> None:
    size = 8 if len(pairs) > 10 else 9
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=size, title=head,
        title_fontsize=size, alignment="left",
    )  # fmt: skip


def near_ood(areas: Mapping[str, Mapping[str, float]], *, title: str = "", demo: bool = False) -> Figure:
    """AUROC as a grid: a row a detector by falling mean (the probe last), a column a held-out class, then the mean."""
    means = {name: float(np.mean(list(values.values()))) for name, values in areas.items()}
    names = sorted(areas, key=lambda name: (name == PROBE, -means[name]))
    classes = list(next(iter(areas.values())))
    grid = np.array([[*(areas[name][cls] for cls in classes), means[name]] for name in names])
    figure = _figure(0.62 * (len(classes) + 1) + 3.2, 0.36 * len(names) + 2.2)
    axes = figure.subplots()
    lowest = min(0.5, float(grid.min()))
    image = axes.imshow(grid, cmap="cividis", vmin=lowest, vmax=1, aspect="auto")
    middle = (lowest + 1) / 2
    for row, column in np.ndindex(*grid.shape):
        colour = "black" if grid[row, column] > middle else "white"
        axes.text(column, row, f"{grid[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.axvline(len(classes) - 0.5, color="white", linewidth=3)
    if names[-1] == PROBE:
        axes.axhline(len(names) - 1.5, color="white", linewidth=3)
    axes.set_xticks(range(len(classes) + 1), [*classes, "mean"], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set(xlabel="held-out class", title=title)
    figure.colorbar(image, ax=axes, fraction=0.05, label="AUROC")
    return _stamped(figure, demo)
