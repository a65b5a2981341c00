"""Maps for the page: from the files of an umap_report artifact to what `page/map.js` draws, within a budget of bytes.

Coordinates are 16-bit numbers on a square common to all states of a map, the same scale on both axes, so that panels
show one layout. Sheets of thumbnails are named by their contents: two maps of the same patches share them.
"""

# N points, S states, L listed neighbours

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.report import sprites

_TOP = 65535


@dataclass(frozen=True, eq=False)
class PageMap:
    """What a map is drawn from, and its sheets by name."""

    data: dict[str, Any]
    sheets: dict[str, bytes]


def read_map(folder: Path) -> PageMap:
    """Read an artifact of umap_report."""
    import pyarrow.parquet as pq

    card = json.loads((folder / "map.json").read_text())
    table = pq.read_table(folder / "map.parquet")
    groups_N = table["group"].to_numpy()
    ood_N = np.array(table["set"].to_pylist()) == "ood"
    groups = [
        {**group, "ood": bool(ood_N[groups_N == n].any()), "count": int((groups_N == n).sum())}
        for n, group in enumerate(card["groups"])
    ]
    said = table["said"].to_pylist()
    names = sorted(set(said))
    number = {name: at for at, name in enumerate(names)}
    classes = table["class"].to_pylist()
    own = [groups[n]["class"] for n in groups_N]
    right = [-1 if value is None else int(value) for value in table["right"].to_pylist()]
    sheets = _sheets(folder, card["thumbnails"]["sheets"])
    data = {
        "data": card["data"],
        "groups": groups,
        "group": _packed(groups_N, "<u2"),
        "ids": table["id"].to_pylist(),
        "labels": [None if text == name else text for text, name in zip(classes, own, strict=True)],
        "names": names,
        "said": [number[name] for name in said],
        "right": _packed(np.array(right), "i1"),
        "states": _states(card["states"], table),
        "thumbnails": {**card["thumbnails"], "sheets": list(sheets)},
    }
    return PageMap(data, dict(sheets))


def _states(states: Sequence[Mapping[str, Any]], table: Any) -> list[dict[str, Any]]:
    xy = {s["name"]: np.stack([table[f"{s['name']}_{axis}"].to_numpy() for axis in "xy"], 1) for s in states}
    everything = np.concatenate(list(xy.values())).astype(np.float64)
    middle = (everything.min(0) + everything.max(0)) / 2
    side = max(float(np.ptp(everything, axis=0).max()), 1e-9)
    shown = ("name", "label", "neighbours", "trustworthiness", "continuity")
    return [
        {
            **{name: s[name] for name in shown},
            "share": s["kept"],
            "xy": _packed(np.rint(((xy[s["name"]] - middle) / side + 0.5) * _TOP).clip(0, _TOP), "<u2"),
            "kept": _packed(np.rint(table[f"{s['name']}_kept"].to_numpy() * s["neighbours"]).clip(0, 255), "u1"),
            "near": _packed(np.array(table[f"{s['name']}_near"].to_pylist()), "<u2"),
        }
        for s in states
    ]


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


def _sheets(folder: Path, count: int) -> dict[str, bytes]:
    found = [(folder / f"thumbnails-{number:03d}.webp").read_bytes() for number in range(count)]
    return {f"sheet-{hashlib.sha256(content).hexdigest()[:16]}": content for content in found}


def within(maps: Sequence[PageMap], most: int) -> tuple[list[PageMap], list[PageMap]]:
    """Maps whose thumbnails take `most` bytes together, coarser where they must be; and those left out.

    A sheet that two maps share counts once.
    """
    kept: list[PageMap] = []
    left = list(maps)
    while left:
        together = {name: content for m in [*kept, left[0]] for name, content in m.sheets.items()}
        if not sprites.smaller(list(together.values()), most)[1]:
            break
        kept.append(left.pop(0))
    names = list(dict.fromkeys(name for m in kept for name in m.sheets))
    contents = {name: content for m in kept for name, content in m.sheets.items()}
    smaller, _ = sprites.smaller([contents[name] for name in names], most)
    found = dict(zip(names, smaller, strict=True))
    return [PageMap(m.data, {name: found[name] for name in m.sheets}) for m in kept], left
