"""The graph as a picture: needed nodes on the left, each with its state by colour, sign and words (SVG, PNG, PDF).

Layers are longest paths from the left; within a layer nodes are ordered by the mean place of their neighbours, to and
fro (Sugiyama et al. 1981, with barycentres). What would be too large is drawn without its seeds, or else by the nodes
before `foreach`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_sat.graph.plan import Node, Plan
from ssl_sat.graph.status import STATES, Standing, counted, standings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST, TALLEST = 60, 24  # boxes in all, and in one layer
_COLOURS: Mapping[str, tuple[str, str]] = {  # fill and sign; Okabe and Ito's palette, lightened under black text
    "done": ("#9fd8c5", "\u2713"),
    "running": ("#a9d3ef", "\u25b6"),
    "queued": ("#d9ecf8", "\u2026"),
    "waiting": ("#d9ecf8", "\u2026"),
    "failed": ("#f0a882", "\u2717"),
    "stopped": ("#f6dca0", "\u25a0"),
    "partial": ("#f6efa8", "\u25d0"),
    "to do": ("#ffffff", "\u25cb"),
    "absent": ("#dddddd", "\u2013"),
}
_HIGH, _GAP, _BETWEEN, _MARGIN, _LETTER, _TITLE = 40, 14, 70, 16, 7.8, 44  # px
_SWEEPS = 8


@dataclass
class Box:
    """A node of the picture, its place (left upper corner) and size in pixels."""

    name: str
    words: str
    state: str
    needs: list[str]
    title: str = ""
    layer: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = field(default=0.0)


@dataclass(frozen=True)
class Picture:
    """Boxes with their places, and the size of the whole."""

    title: str
    boxes: list[Box]
    width: float
    height: float


def picture(plan: Plan) -> Picture:
    """Lay a plan out."""
    found = standings(plan)
    boxes = [_box(item) for item in found]
    boxes += [Box(name, "weights absent", "absent", [], title=why) for name, why in plan.absent.items()]
    for name_of in (_without_seed, lambda node: node.node):
        if _too_large(boxes):
            boxes = _grouped(found, name_of)
    title = f"{plan.name}: {counted(found)}" + (f", {len(plan.absent)} absent" if plan.absent else "")
    layers = _layers(boxes)
    _order(layers)
    width, height = _place(layers)
    return Picture(title, boxes, max(width, len(title) * 10.5 + 2 * _MARGIN), height)


def _box(item: Standing) -> Box:
    words = f"{item.node.stage}, {item.state}"
    title = f"{item.node.artifact} {item.words}".strip()
    return Box(item.node.id, words, item.state, list(dict.fromkeys(item.node.needs.values())), title)


def _too_large(boxes: Sequence[Box]) -> bool:
    return len(boxes) > MOST or max(len(layer) for layer in _layers(boxes)) > TALLEST


def _without_seed(node: Node) -> str:
    return node.id.replace(f"-seed{node.variables.get('seed')}", "", 1)


def _grouped(found: Sequence[Standing], name_of: Callable[[Node], str]) -> list[Box]:
    """One box for the nodes of one name, with counts; its state is the one that asks for attention first."""
    of = {item.node.id: name_of(item.node) for item in found}
    groups: dict[str, list[Standing]] = {}
    for item in found:
        groups.setdefault(of[item.node.id], []).append(item)
    weighty = ("failed", "running", "queued", "waiting", "stopped", "partial", "to do", "done")
    boxes = []
    for name, members in groups.items():
        needs = dict.fromkeys(of[need] for member in members for need in member.node.needs.values())
        state = next(state for state in weighty if any(member.state == state for member in members))
        words = f"{members[0].node.stage}, {counted(members)}"
        boxes.append(Box(name, words, state, [need for need in needs if need != name]))
    return boxes


def _layers(boxes: Sequence[Box]) -> list[list[Box]]:
    by_name = {box.name: box for box in boxes}
    for box in boxes:  # needed ones come first in a plan
        box.layer = max((by_name[need].layer + 1 for need in box.needs), default=0)
        box.width = max(len(box.name) + 3, len(box.words)) * _LETTER + 18
    layers: list[list[Box]] = [[] for _ in range(max((box.layer for box in boxes), default=0) + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    return layers


def _order(layers: list[list[Box]]) -> None:
    """Sort each layer by the mean place of its neighbours, so that few lines cross."""
    users: dict[str, list[str]] = {}
    for box in (box for layer in layers for box in layer):
        for need in box.needs:
            users.setdefault(need, []).append(box.name)
    place = {box.name: float(at) for layer in layers for at, box in enumerate(layer)}
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):

            def wish(box: Box, down: bool = sweep % 2 == 0) -> float:
                near = [place[name] for name in (box.needs if down else users.get(box.name, []))]
                return sum(near) / len(near) if near else place[box.name]

            layer.sort(key=wish)
            for at, box in enumerate(layer):
                place[box.name] = at + (1 - len(layer)) / 2


def _place(layers: Sequence[Sequence[Box]]) -> tuple[float, float]:
    tallest = max(len(layer) for layer in layers)
    height = tallest * (_HIGH + _GAP) - _GAP
    x = float(_MARGIN)
    for layer in layers:
        width = max((box.width for box in layer), default=0.0)
        top = _TITLE + (height - len(layer) * (_HIGH + _GAP) + _GAP) / 2
        for at, box in enumerate(layer):
            box.x, box.y, box.width = x, top + at * (_HIGH + _GAP), width
        x += width + _BETWEEN
    return x - _BETWEEN + _MARGIN, _TITLE + height + _MARGIN


def as_svg(plan: Plan) -> str:
    """The picture as an SVG document that needs nothing from outside; names are text, whatever they hold."""
    drawn = picture(plan)
    by_name = {box.name: box for box in drawn.boxes}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawn.width:.0f} {drawn.height:.0f}" '
        f'width="{drawn.width:.0f}" height="{drawn.height:.0f}" role="img" font-family="sans-serif" font-size="12">',
        f"<title>{escape(drawn.title)}</title>",
        f'<rect width="{drawn.width:.0f}" height="{drawn.height:.0f}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="26" font-size="15" font-weight="bold">{escape(drawn.title)}</text>',
    ]
    for box in drawn.boxes:
        for need in box.needs:
            lines.append(f'<path d="{_curve(by_name[need], box)}" fill="none" stroke="#555555" stroke-width="1.2"/>')
    lines += [_svg_box(box) for box in drawn.boxes]
    return "\n".join([*lines, "</svg>", ""])


def _svg_box(box: Box) -> str:
    fill, sign = _COLOURS[box.state]
    dashes = ' stroke-dasharray="4 3"' if box.state in ("to do", "absent") else ""
    return (
        f'<g data-node="{escape(box.name)}" data-state="{box.state}"><title>{escape(box.title or box.name)}</title>'
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{_HIGH}" rx="5" fill="{fill}" '
        f'stroke="#333333"{dashes}/><text x="{box.x + 9:.1f}" y="{box.y + 17:.1f}" font-weight="bold">{sign} '
        f'{escape(box.name)}</text><text x="{box.x + 9:.1f}" y="{box.y + 33:.1f}" font-size="11" fill="#333333">'
        f"{escape(box.words)}</text></g>"
    )


def _curve(one: Box, other: Box) -> str:
    x0, y0, x1, y1 = _ends(one, other)
    bend = max(30.0, (x1 - x0) / 2)
    return f"M{x0:.1f},{y0:.1f} C{x0 + bend:.1f},{y0:.1f} {x1 - bend:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"


def _ends(one: Box, other: Box) -> tuple[float, float, float, float]:
    return one.x + one.width, one.y + _HIGH / 2, other.x, other.y + _HIGH / 2


def write(plan: Plan, folder: Path) -> list[Path]:
    """Write dag.svg, dag.png and dag.pdf into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    svg, png, pdf = (folder / f"dag.{kind}" for kind in ("svg", "png", "pdf"))
    svg.write_text(as_svg(plan), encoding="utf-8")
    figure = _figure(picture(plan))
    figure.savefig(png)
    figure.savefig(pdf, metadata={"Creator": None, "Producer": None, "CreationDate": None})
    return [svg, png, pdf]


def _figure(drawn: Picture) -> Figure:
    """The same places and colours by matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Line

    figure = Figure(figsize=(drawn.width / 100, drawn.height / 100), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, drawn.width)
    axes.set_ylim(drawn.height, 0)
    axes.axis("off")
    point = 0.72  # of a pixel, at 100 a inch
    axes.text(_MARGIN, 26, drawn.title, fontsize=15 * point, fontweight="bold")
    by_name = {box.name: box for box in drawn.boxes}
    for box in drawn.boxes:
        for need in box.needs:
            x0, y0, x1, y1 = _ends(by_name[need], box)
            bend = max(30.0, (x1 - x0) / 2)
            corners = [(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)]
            line = Line(corners, [Line.MOVETO, Line.CURVE4, Line.CURVE4, Line.CURVE4])
            axes.add_patch(PathPatch(line, facecolor="none", edgecolor="#555555", linewidth=0.9))
    for box in drawn.boxes:
        fill, sign = _COLOURS[box.state]
        style = "--" if box.state in ("to do", "absent") else "-"
        shape = FancyBboxPatch(
            (box.x, box.y), box.width, _HIGH, boxstyle="round,pad=0,rounding_size=5", facecolor=fill,
            edgecolor="#333333", linewidth=0.8, linestyle=style,
        )  # fmt: skip
        axes.add_patch(shape)
        axes.text(box.x + 9, box.y + 17, f"{sign} {box.name}", fontsize=12 * point, fontweight="bold", parse_math=False)
        axes.text(box.x + 9, box.y + 33, box.words, fontsize=11 * point, color="#333333", parse_math=False)
    return figure


assert set(STATES) < set(_COLOURS)
