"""Training curves from a history."""

from __future__ import annotations

from typing import Any


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
