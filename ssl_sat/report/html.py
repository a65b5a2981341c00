"""One self-contained HTML page: images inside it, everything escaped, nothing loaded from the network.

    page = Page("Pretraining on BigEarthNet", demo=False)
    page.heading("Accuracy")
    page.table([{"encoder": "vit", "accuracy": 0.9731}], caption="EuroSAT test split")
    page.image(folder / "umap.png", alt="UMAP of the features")
    page.write(folder / "report.html")

With demo=True every page says DEMO DATA: on the screen a banner that stays in view; in print a line at the top of
each page (page margin boxes: Chrome 131, WeasyPrint and later); in both a watermark, which every browser repeats.
"""  # fmt: skip

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ssl_sat.spec import MissingInput

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.3rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
p.lead { color: #555; margin-top: 0; }
.scroll { overflow-x: auto; }
table.data { border-collapse: collapse; margin: .6rem 0; font-size: .9rem; }
table.data caption { text-align: left; color: #555; padding-bottom: .3rem; }
table.data th, table.data td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }
table.data thead th { border-bottom: 2px solid #888; }
table.data td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
p.warning { border-left: 4px solid #c00; background: #fff3f3; padding: .5rem .8rem; }
.banner { position: fixed; top: 0; left: 0; right: 0; height: 2.2rem; line-height: 2.2rem; z-index: 9;
  background: #c00; color: #fff; font-weight: 700; letter-spacing: .12em; text-align: center; }
.watermark { position: fixed; top: 42%; left: 0; right: 0; text-align: center; transform: rotate(-28deg);
  font-size: 15vw; font-weight: 800; color: rgba(204, 0, 0, .09); pointer-events: none; white-space: nowrap;
  z-index: 8; }
@page { size: A4; margin: 14mm; }
@media print {
  main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .break { break-before: page; }
  figure, tr { break-inside: avoid; } h1, h2, h3 { break-after: avoid; }
  table.data thead { display: table-header-group; }
  .scroll { overflow: visible; }
}
"""
_DEMO = "DEMO DATA: these numbers are not results"
_DEMO_STYLE = f"""
main {{ padding-top: 3.4rem; }}
@media print {{
  main {{ padding-top: 0; }} .banner {{ display: none; }}
  @page {{ margin-top: 24mm; @top-center {{ content: "{_DEMO}"; color: #c00; font: bold 14pt sans-serif; }} }}
}}
"""


class Page:
    """Collects the parts of a page in order. All texts are escaped; there is no way to add raw HTML."""

    def __init__(self, title: str, lead: str = "", *, demo: bool = False) -> None:
        self.title = title
        self.demo = demo
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    def heading(self, text: str, level: int = 2, *, new_page: bool = False) -> None:
        """Add a heading of level 2 or 3; `new_page` starts a new page when printed."""
        if level not in (2, 3):
            raise ValueError(f"headings are of level 2 or 3, not {level}")
        mark = ' class="break"' if new_page else ""
        self._parts.append(f"<h{level}{mark}>{escape(text)}</h{level}>")

    def text(self, text: str) -> None:
        """Add paragraphs; an empty line parts them."""
        self._parts += [f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]

    def warning(self, text: str) -> None:
        """Add a paragraph that stands out."""
        self._parts.append(f'<p class="warning">{escape(text)}</p>')

    def table(self, rows: Sequence[Mapping[str, Any]], *, caption: str = "", columns: Sequence[str] = ()) -> None:
        """Add a table; columns are those named, or else all keys in order of appearance. Missing cells show a dash."""
        names = list(columns) or list(dict.fromkeys(key for row in rows for key in row))
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
        body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in names)}</tr>" for row in rows)
        above = f"<caption>{escape(caption)}</caption>" if caption else ""
        inner = f"{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        self._parts.append(f'<div class="scroll"><table class="data">{inner}</table></div>')

    def facts(self, values: Mapping[str, Any], *, caption: str = "") -> None:
        """Add a table of two columns: what, and its value."""
        self.table([{"what": key, "value": value} for key, value in values.items()], caption=caption)

    def image(self, path: Path, *, alt: str, caption: str = "") -> None:
        """Add a PNG or JPEG file; its bytes go into the page. Raises MissingInput or ValueError."""
        if path.suffix.lower() not in _TYPES:
            raise ValueError(f"{path.name}: images are PNG or JPEG")
        if not path.is_file():
            raise MissingInput(f"no image {path}; make the figure before the page")
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        source = f"data:{_TYPES[path.suffix.lower()]};base64,{data}"
        self._parts.append(f'<figure><img src="{source}" alt="{escape(alt)}">{below}</figure>')

    def render(self) -> str:
        """Return the page as text; the same parts give the same bytes."""
        title = f"DEMO DATA: {self.title}" if self.demo else self.title
        style = _STYLE + _DEMO_STYLE if self.demo else _STYLE
        content = f"<main>{chr(10).join(self._parts)}</main>"
        if self.demo:
            content = f'<div class="banner">{_DEMO}</div><div class="watermark">DEMO DATA</div>{content}'
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>{content}</body></html>\n"
        )

    def write(self, path: Path) -> Path:
        """Write the page; an interrupted write leaves no half page."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.render(), encoding="utf-8")
        os.replace(partial, path)
        return path


def _cell(value: Any) -> str:
    if value is None:
        return '<td class="number">–</td>'
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{escape(str(value))}</td>"
    plain = value == 0 or 1e-3 <= abs(value) < 1e4
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if plain else f"{value:.4g}"
    return f'<td class="number">{text}</td>'
