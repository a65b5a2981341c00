"""Findings: what was looked at, what was found, what to do next; and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "WRONG", "cost"]
_SUBJECT = 13  # width of the column
_INDENT = " " * (8 + _SUBJECT)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. WRONG must be repaired before a run; `then` says what to do next."""

    state: State
    subject: str
    text: str
    then: str = ""


def lines(finding: Finding) -> str:
    """The finding as lines: state, subject, text; further lines of the text and the next step are indented below."""
    first, *more = finding.text.splitlines() or [""]
    told = [f"  {finding.state:6}{finding.subject:{_SUBJECT}}{first}", *(_INDENT + line.strip() for line in more)]
    return "\n".join([*told, *([f"{_INDENT}next: {finding.then}"] if finding.then else [])])


def gigabytes(count: float) -> str:
    """Decimal units of three digits or so: 940 kB, 94.7 MB, 43.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """`3 s`, `12 min`, `4.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
