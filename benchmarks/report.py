"""One table of all gates and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, Any]]) -> str:
    """Gates first, with what was demanded, then the figures on which nothing is demanded."""
    lines = [_line("GATE", "MEASURED", "SPREAD", "DEMANDED", "MET", "AGAINST")]
    for row in rows:
        demanded = f"{row['sense']} {_number(row['demanded'])} {row['unit']}"
        if row["measured"] is None:
            lines.append(
                _line(row["gate"], "-", "-", demanded, "-", f"not run: {row.get('reason', 'no reason given')}")
            )
        else:
            met = "yes" if row["met"] else "NO"
            lines.append(
                _line(row["gate"], _number(row["measured"]), _spread(row), demanded, met, row["against"], row["note"])
            )
    if figures:
        lines += ["", _line("FIGURE", "MEASURED", "SPREAD", "UNIT", "", "")]
    for found in figures:
        lines.append(
            _line(found["figure"], _number(found["measured"]), _spread(found), found["unit"], "", found["note"])
        )
    measured = [row for row in rows if row["measured"] is not None]
    met = sum(bool(row["met"]) for row in measured)
    lines += ["", f"{met} of {len(measured)} measured gates met, {len(rows) - len(measured)} not run"]
    if any(row["quick"] for row in rows):
        lines.append("QUICK: small sizes, to see that everything runs; these are no figures.")
    return "\n".join(lines)


def _line(name: str, measured: str, spread: str, demanded: str, met: str, against: str, note: str = "") -> str:
    tail = f"{against}; {note}" if note else against
    return f"{name:<58} {measured:>10}  {spread:<19} {demanded:<18} {met:<4} {tail}".rstrip()


def _spread(row: Mapping[str, Any]) -> str:
    low, high = row["spread"]
    return f"{_number(low)} .. {_number(high)}" if row["rounds"] > 1 else ""


def _number(value: float) -> str:
    """Three significant digits, without an exponent where that can be read."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
