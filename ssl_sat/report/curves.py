"""Training curves from histories: panels of a figure, and the same of many runs for the page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

_MOST = 240  # points of a line on the page
_FIRST = ("loss", "accuracy", "val_accuracy")


def panels_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Panels of the curves: epochs counted through the phases, training values as means of an epoch."""
    phases: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for row in rows:
        phases.setdefault(row["phase"], {}).setdefault(row["epoch"], []).append(row)
    panels: dict[str, dict[str, Any]] = {}
    done = 0
    for epochs in phases.values():
        for epoch, of_epoch in sorted(epochs.items()):
            for name in sorted({key for row in of_epoch for key in row} - {"phase", "epoch", "step"}):
                values = [row[name] for row in of_epoch if name in row]
                panel, series = name.removeprefix("val_"), "val" if name.startswith("val_") else "train"
                xs, ys = panels.setdefault(panel, {}).setdefault(series, ([], []))
                xs.append(done + epoch + 1)
                ys.append(sum(values) / len(values))
        done += len(epochs)
    return panels


class History(NamedTuple):
    """A run's history.jsonl; `group` is what it shares a colour with."""

    name: str
    group: str
    fingerprint: str
    path: Path


def curve_data(histories: Iterable[History]) -> dict[str, Any]:
    """What `page/curves.js` draws: a panel a quantity, a line a run, by epoch; long lines are thinned evenly."""
    found: dict[str, list[dict[str, Any]]] = {}
    for history in histories:
        rows = [json.loads(line) for line in history.path.read_text().splitlines()]
        for panel, series in panels_of([row for row in rows if "phase" in row]).items():
            for part, (xs, ys) in series.items():
                name = f"{panel} ({part})" if len(series) > 1 or part == "val" else panel
                kept = _thinned(len(xs))
                found.setdefault(name, []).append(
                    {
                        "name": history.name, "group": history.group, "fingerprint": history.fingerprint,
                        "xs": [xs[n] for n in kept], "ys": [float(f"{ys[n]:.6g}") for n in kept],
                    }
                )  # fmt: skip
    order = sorted(found, key=lambda name: (not name.startswith(_FIRST), name))
    return {"x": "epoch", "panels": [{"name": name.replace("_", " "), "series": found[name]} for name in order]}


def _thinned(count: int) -> list[int]:
    if count <= _MOST:
        return list(range(count))
    return sorted({round(n * (count - 1) / (_MOST - 1)) for n in range(_MOST)})
