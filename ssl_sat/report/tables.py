"""A table three times: Markdown to read, CSV to compute with, LaTeX (booktabs) to publish. No number is typed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval; in a CSV three columns."""

    value: float
    low: float | None
    high: float | None


Value = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """`title` heads it in Markdown and LaTeX, `key` in a CSV. `digits` after the point; `signed` shows a plus.

    floor: write numbers that would round to zero as `<0.0001`.
    """

    key: str
    title: str
    digits: int = 3
    signed: bool = False
    floor: bool = False


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"${letter}$" for letter in "<>"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "\\": "\\textbackslash{}",
    "–": "--",
    "→": "$\\to$",
    "±": "$\\pm$",
}
Rows = Sequence[Mapping[str, Value]]


def write_tables(stem: Path, columns: Sequence[Column], rows: Rows, caption: str) -> list[Path]:
    """Write `<stem>.md`, `.csv` and `.tex`; columns without any value are left out of the first and the last."""
    shown = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    texts = {
        ".md": markdown(shown, rows, caption),
        ".csv": csv_text(columns, rows),
        ".tex": latex(shown, rows, caption, stem.name),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(stem.with_name(f"{stem.name}{suffix}"))
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def markdown(columns: Sequence[Column], rows: Rows, caption: str) -> str:
    """The caption, then a table of pipes."""
    head = [column.title.replace("|", "\\|") for column in columns]
    lines = [head, ["---:" if _is_number(rows, column) else "---" for column in columns]]
    lines += [[cell(row.get(column.key), column).replace("|", "\\|") for column in columns] for row in rows]
    return f"{caption}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def csv_text(columns: Sequence[Column], rows: Rows) -> str:
    """Full precision; an estimate takes three columns: key, key_low, key_high."""
    spread = {column.key for column in columns for row in rows if isinstance(row.get(column.key), Estimate)}
    head = [
        name for c in columns for name in ([c.key, f"{c.key}_low", f"{c.key}_high"] if c.key in spread else [c.key])
    ]
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(head)
    for row in rows:
        line: list[str] = []
        for column in columns:
            value = row.get(column.key)
            if column.key in spread:
                ends = value if isinstance(value, Estimate) else (value, None, None)
                line += ["" if end is None else repr(end) if isinstance(end, float) else str(end) for end in ends]
            else:
                line.append("" if value is None else repr(value) if isinstance(value, float) else str(value))
        table.writerow(line)
    return written.getvalue()


def latex(columns: Sequence[Column], rows: Rows, caption: str, label: str) -> str:
    """A table environment for booktabs."""
    align = "".join("r" if _is_number(rows, column) else "l" for column in columns)
    body = [" & ".join(_escaped(cell(row.get(column.key), column)) for column in columns) for row in rows]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_escaped(caption)}}}",
        f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{{align}}}",
        "\\toprule",
        " & ".join(_escaped(column.title) for column in columns) + " \\\\",
        "\\midrule",
        *(f"{line} \\\\" for line in body),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def cell(value: Value, column: Column) -> str:
    """`0.901 [0.880, 0.921]`, `1,500`, a text, or a dash."""
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        ends = (
            ""
            if value.low is None or value.high is None
            else f" [{_number(value.low, column)}, {_number(value.high, column)}]"
        )
        return _number(value.value, column) + ends
    if isinstance(value, float):
        return _number(value, column)
    return f"{value:,}" if isinstance(value, int) else value


def _number(value: float, column: Column) -> str:
    if column.floor and 0 <= value < 10**-column.digits:
        return f"<{10**-column.digits:.{column.digits}f}"
    return f"{value:{'+' if column.signed else ''}.{column.digits}f}"


def _is_number(rows: Rows, column: Column) -> bool:
    return any(isinstance(row.get(column.key), (int, float, Estimate)) for row in rows)


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
