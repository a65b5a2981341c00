"""`metrics.csv`: what history.jsonl holds, and the speed, as a table that every program opens."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_sat.artifact import write_atomic

_FIRST = ("phase", "epoch", "step")


class MetricsCsv:
    """One line a row, one column a name; a name that comes later adds a column to all lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []

    def cut(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Leave out the lines that will be written again, and a last one that a kill has cut short."""
        self._columns = []
        if not self.path.exists():
            return
        whole = self.path.read_text().rpartition("\n")[0] + "\n"
        reader = csv.DictReader(io.StringIO(whole))
        rows = [row for row in reader if keep({**row, "step": int(row["step"])})]
        self._columns = list(reader.fieldnames or [])
        self._rewrite(rows)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add lines."""
        new = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in (*_FIRST, *self._columns)]
        if new or not self._columns:
            old = list(csv.DictReader(io.StringIO(self.path.read_text()))) if self.path.exists() else []
            self._columns = [*(self._columns or _FIRST), *new]
            self._rewrite([*old, *rows])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerows(rows)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path, text.getvalue().encode())
