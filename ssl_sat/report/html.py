"""One self-contained HTML page: images, data and scripts inside it, everything escaped, nothing from a network.

    page = Page("Pretraining on BigEarthNet", demo=False)
    page.heading("Accuracy")
    page.table([{"encoder": "vit", "accuracy": 0.9731, "from": Prints(("1a2b3c4d",))}], caption="EuroSAT test split")
    page.image(folder / "map.png", alt="UMAP of the features")
    page.write(folder / "report.html")

A policy in its head lets it run its own script, by hash, and load nothing. Names of files and classes reach it as text:
escaped in the markup, as JSON in blocks, and by textContent from there. Without a script it is still to be read.

With demo=True every page says DEMO DATA: on the screen a banner that stays in view; in print a line at the top of
each page (page margin boxes: Chrome 131, WeasyPrint and later); in both a watermark, which every browser repeats.
"""  # fmt: skip

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ssl_sat.report.tables import Column, Estimate, cell
from ssl_sat.spec import MissingInput

ASSETS = Path(__file__).parent / "page"
SCRIPTS = ("table.js", "map.js", "curves.js", "page.js")
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'"
_DEMO = "DEMO DATA: these numbers are not results"
_LONG = 48  # letters beyond which a cell is broken into lines
_FEW = 3  # fingerprints that stand in one line


class Prints(NamedTuple):
    """Fingerprints of the artifacts that a number comes from; each is a link to the row of its artifact."""

    fingerprints: tuple[str, ...]


class Page:
    """Collects the parts of a page in order. All texts are escaped; there is no way to add raw HTML."""

    def __init__(self, title: str, lead: str = "", *, demo: bool = False) -> None:
        self.title = title
        self.demo = demo
        self._sections: list[str] = []
        self._parts = [f"<h1>{escape(title)}</h1>"]
        self._blocks: dict[str, str] = {}
        self._counts = {"table": 0, "block": 0}
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    @property
    def size(self) -> int:
        """Bytes of the page so far, nearly."""
        return sum(len(part) for part in (*self._parts, *self._blocks.values()))

    def heading(self, text: str, level: int = 2, *, new_page: bool = False) -> None:
        """Add a heading of level 2 (which the bar at the top leads to) or 3; `new_page` starts one when printed."""
        if level not in (2, 3):
            raise ValueError(f"headings are of level 2 or 3, not {level}")
        mark = ' class="break"' if new_page else ""
        if level == 2:
            self._sections.append(text)
            mark += f' id="section-{len(self._sections)}"'
        self._parts.append(f"<h{level}{mark}>{escape(text)}</h{level}>")

    def text(self, text: str, kind: str = "") -> None:
        """Add paragraphs; an empty line parts them. kind: '', 'note' or 'warning'."""
        mark = f' class="{kind}"' if kind else ""
        self._parts += [f"<p{mark}>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]

    def warning(self, text: str) -> None:
        """Add a paragraph that stands out."""
        self.text(text, "warning")

    def findings(self, lines: Sequence[str]) -> None:
        """Add a list of sentences."""
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        self._parts.append(f'<ul class="findings">{items}</ul>')

    def cards(self, values: Mapping[str, Any]) -> None:
        """Add the few numbers that a reader looks for first."""
        cards = "".join(
            f'<div class="card"><b>{escape(str(value))}</b><span>{escape(name)}</span></div>'
            for name, value in values.items()
        )
        self._parts.append(f'<div class="cards">{cards}</div>')

    def table(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        caption: str = "",
        columns: Sequence[str] = (),
        anchors: Sequence[str] = (),
    ) -> None:
        """Add a table that sorts and filters; missing cells show a dash.

        columns: those named, or else all keys in order of appearance. anchors: an id for each row.
        """
        names = list(columns) or list(dict.fromkeys(key for row in rows for key in row))
        self._counts["table"] += 1
        about = f"table-{self._counts['table']}"
        kinds = [_kind(row.get(name) for row in rows) for name in names]
        head = "".join(f'<th scope="col"{k}>{escape(name)}</th>' for name, k in zip(names, kinds, strict=True))
        ids = [f' id="{escape(anchor)}"' for anchor in anchors] or [""] * len(rows)
        body = "".join(
            f"<tr{mark}>{''.join(_cell(row.get(name), k) for name, k in zip(names, kinds, strict=True))}</tr>"
            for mark, row in zip(ids, rows, strict=True)
        )
        self._parts.append(
            f'<div class="tabletop" id="{about}"><p>{escape(caption)}</p></div><div class="scroll">'
            f'<table class="data" aria-describedby="{about}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
            "</table></div>"
        )

    def facts(self, values: Mapping[str, Any], *, caption: str = "") -> None:
        """Add a table of two columns: what, and its value."""
        self.table([{"what": key, "value": value} for key, value in values.items()], caption=caption)

    def image(self, path: Path, *, alt: str, caption: str = "") -> None:
        """Add a PNG, JPEG or WebP file; its bytes go into the page. Raises MissingInput or ValueError."""
        self._parts.append(_figure(path, alt, caption))

    def gallery(self, figures: Sequence[tuple[Path, str, str]]) -> None:
        """Add several images (path, alt, caption) side by side; a click enlarges one."""
        self._parts.append(f'<div class="gallery">{"".join(_figure(*figure) for figure in figures)}</div>')

    def drawing(self, svg: str, alt: str) -> None:
        """Add an SVG document as an image, in which nothing can run."""
        source = f"data:image/svg+xml;base64,{_base64(svg.encode())}"
        self._parts.append(f'<div class="scroll drawing"><img src="{source}" alt="{escape(alt)}"></div>')

    def map(self, data: Mapping[str, Any], sheets: Mapping[str, bytes], fallback: Path | None = None) -> None:
        """Add a map to look into (see `ssl_sat.report.map_page`); `fallback` is shown where scripts do not run."""
        for name, content in sheets.items():
            self._blocks[name] = f'<script type="text/plain" id="{escape(name)}">{_base64(content)}</script>'
        plain = f"<noscript>{_figure(fallback, 'map', '')}</noscript>" if fallback is not None else ""
        self._parts.append(f'<div class="map" {self._block(data)}></div>{plain}')

    def curves(self, data: Mapping[str, Any]) -> None:
        """Add curves to choose from (see `ssl_sat.report.curves.curve_data`)."""
        svg = '<svg viewBox="0 0 980 360" role="img" aria-label="curves of the runs"></svg>'
        self._parts.append(f'<div class="curves" {self._block(data)}>{svg}</div>')

    def _block(self, data: Mapping[str, Any]) -> str:
        self._counts["block"] += 1
        name = f"data-{self._counts['block']}"
        text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        self._blocks[name] = f'<script type="application/json" id="{name}">{text}</script>'
        return f'id="view-{name}" data-block="{name}"'

    def render(self) -> str:
        """Return the page as text; the same parts give the same bytes."""
        title = f"DEMO DATA: {self.title}" if self.demo else self.title
        style = "".join(_asset(name) for name in (["style.css", "demo.css"] if self.demo else ["style.css"]))
        script = "".join(_asset(name) for name in SCRIPTS)
        content = f'{self._bar()}<main id="main">{chr(10).join(self._parts)}</main>'
        if self.demo:
            content = f'<div class="banner">{_DEMO}</div><div class="watermark">DEMO DATA</div>{content}'
        policy = _POLICY.format(_base64(hashlib.sha256(script.encode()).digest()))
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head>\n'
            f"<body>{content}\n{chr(10).join(self._blocks.values())}\n<script>{script}</script></body></html>\n"
        )

    def _bar(self) -> str:
        links = "".join(
            f'<li><a href="#section-{number}">{escape(name)}</a></li>' for number, name in enumerate(self._sections, 1)
        )
        skip = '<a class="skip" href="#main">To the contents</a>'
        return f'{skip}<nav class="sections" aria-label="Sections"><ul>{links}</ul></nav>' if links else ""

    def write(self, path: Path) -> Path:
        """Write the page; an interrupted write leaves no half page."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.render(), encoding="utf-8")
        os.replace(partial, path)
        return path


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _figure(path: Path, alt: str, caption: str) -> str:
    if path.suffix.lower() not in _TYPES:
        raise ValueError(f"{path.name}: images are PNG, JPEG or WebP")
    if not path.is_file():
        raise MissingInput(f"no image {path}; make the figure before the page")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = f"data:{_TYPES[path.suffix.lower()]};base64,{_base64(path.read_bytes())}"
    return f'<figure><img src="{source}" alt="{escape(alt)}" loading="lazy" decoding="async">{below}</figure>'


def _kind(values: Iterable[Any]) -> str:
    """The mark of a column of numbers."""
    known = [value for value in values if value is not None]
    numbers = [isinstance(v, (int, float, Estimate)) and not isinstance(v, bool) for v in known]
    return ' class="number"' if known and all(numbers) else ""


def _cell(value: Any, kind: str) -> str:
    if value is None:
        return f"<td{kind} data-none>–</td>"
    if isinstance(value, Prints):
        links = (f'<a class="fp" href="#fp-{escape(text)}">{escape(text)}</a>' for text in value.fingerprints)
        several = "" if len(value.fingerprints) < 2 else "several" if len(value.fingerprints) <= _FEW else "many"
        return f'<td class="{several}">{" ".join(links)}</td>' if several else f"<td>{' '.join(links)}</td>"
    if isinstance(value, Estimate):
        return f'<td class="number" data-v="{value.value!r}">{escape(cell(value, Column("", "", 4)))}</td>'
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = str(value)
        return f'<td class="{"long" if len(text) > _LONG else "short"}">{escape(text)}</td>'
    plain = value == 0 or 1e-3 <= abs(value) < 1e4
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if plain else f"{value:.4g}"
    return f'<td class="number" data-v="{value!r}">{text}</td>'
