"""Figures of maps: the states side by side in one layout, and the share of neighbours that each kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssl_sat.report.figures import _COLOURS, _MARKERS, _bare, _figure, _stamped
from ssl_sat.report.maps import Map, Points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {"umap": "UMAP", "pca": "PCA", "tsne": "t-SNE"}
_DASHES = ("-", "--", ":")


def panels(points: Points, maps: Sequence[Map], method: str, *, demo: bool = False) -> Figure:
    """One panel a state, the same axes: in-distribution by class, the other data set as black crosses."""
    figure = _figure(4.6 * len(maps) + 2.6, 5.0)
    grid = figure.subplots(1, len(maps), squeeze=False)[0]
    size = float(np.clip(20_000 / max(len(points), 1), 3, 36))
    everything = np.concatenate([m.xy_N2 for m in maps])
    low, high = everything.min(0), everything.max(0)
    edge = 0.03 * (high - low)
    for axes, m in zip(grid, maps, strict=True):
        shown = 0
        for number, (_, name) in enumerate(points.groups):
            at_N = (points.group_N == number) & ~points.ood_N
            if at_N.any():
                colour = _COLOURS[shown % len(_COLOURS)] if name is not None else "#BBBBBB"
                marker = _MARKERS[shown // len(_COLOURS) % len(_MARKERS)]
                label = f"{name or 'no single class'} ({int(at_N.sum()):,})"
                axes.scatter(
                    *m.xy_N2[at_N].T, s=size, c=colour, marker=marker, linewidths=0, alpha=0.75, label=label,
                    rasterized=True,
                )  # fmt: skip
                shown += 1
        if points.ood_N.any():
            label = f"{points.names[1]} ({int(points.ood_N.sum()):,})"
            axes.scatter(
                *m.xy_N2[points.ood_N].T, s=1.6 * size, c="black", marker="x", linewidths=0.8, alpha=0.8, label=label,
                rasterized=True,
            )  # fmt: skip
        found = m.found
        axes.set_title(m.label, fontsize=9, loc="left", wrap=True)
        axes.set_xlabel(
            f"trustworthiness {found.trustworthiness:.3f}, continuity {found.continuity:.3f}\n"
            f"{found.kept:.0%} of the {found.neighbours} nearest neighbours kept",
            fontsize=8,
        )
        axes.set(xticks=[], yticks=[], xlim=(low[0] - edge[0], high[0] + edge[0]))
        axes.set(ylim=(low[1] - edge[1], high[1] + edge[1]))
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False, markerscale=1.8, fontsize=8)
    figure.suptitle(f"{_NAMES[method]} of features: {points.names[0]} against {points.names[1]}", fontsize=11)
    return _stamped(figure, demo)


def neighbours_kept(maps: Sequence[Map], *, demo: bool = False) -> Figure:
    """Share of the k nearest in the features that are among the k nearest on the map, over k; chance below."""
    figure = _figure(5.6, 3.8)
    axes = figure.subplots()
    for at, m in enumerate(maps):
        colour, dash = _COLOURS[(0, 6, 3)[at % 3]], _DASHES[at % 3]
        axes.plot(
            m.found.sizes_K, m.found.kept_K, color=colour, linestyle=dash, marker="o", markersize=3, label=m.label
        )
    first = maps[0].found
    axes.plot(first.sizes_K, first.chance_K, color="#999999", linestyle="-.", linewidth=1, label="a map at random")
    axes.set(xscale="log", ylim=(0, 1), xlabel="k nearest neighbours", ylabel="share kept on the map")
    axes.set_xticks(first.sizes_K, [str(k) for k in first.sizes_K], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    _bare(axes)
    return _stamped(figure, demo)
