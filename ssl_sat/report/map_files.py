"""What a map leaves: one row a patch, thumbnails, a card for the page, figures.

    map.parquet            id, set, class, what the model said; x, y, kept and the nearest patches for each state
    map.json               states with their figures, groups, data sets, the size of the thumbnails
    thumbnails-NNN.webp    the patches themselves, in the order of the rows (`ssl_sat.report.sprites`)
    map, neighbours        .png .pdf .svg
"""  # fmt: skip

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.artifact import write_json
from ssl_sat.report import figures, map_figures, sprites
from ssl_sat.report.maps import Map, Points

FORMAT = "ssl_sat.map/1"
LISTED = 6  # nearest patches of each that are kept by number


def store(out: Path, points: Points, maps: Sequence[Map], spec: Any) -> None:
    """Write map.parquet, map.json and the thumbnails."""
    cell_px = min(sprites.CELL_PX, max(size(pack) for pack, _ in points.parts))
    sheets = sprites.write_sheets(out, _pictures(points), cell_px)
    write_rows(out, points, maps)
    write_card(out, points, maps, spec, cell_px, sheets)


def write_rows(out: Path, points: Points, maps: Sequence[Map]) -> None:
    """map.parquet: one row a patch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": list(points.ids),
        "set": np.where(points.ood_N, "ood", "id").tolist(),
        "group": points.group_N.astype(np.int32),
        "class": list(points.labels),
        "said": list(points.said),
        "right": pa.array(points.right, pa.bool_()),
    }
    for m in maps:
        near = pa.array(m.found.near_Nk[:, :LISTED].tolist(), pa.list_(pa.int32()))
        columns |= {f"{m.name}_x": m.xy_N2[:, 0], f"{m.name}_y": m.xy_N2[:, 1]}
        columns |= {f"{m.name}_kept": m.found.kept_N, f"{m.name}_near": near}
    pq.write_table(pa.table(columns), out / "map.parquet")


def write_card(out: Path, points: Points, maps: Sequence[Map], spec: Any, cell_px: int, sheets: int) -> None:
    """map.json: what the page needs to know beside the rows."""
    card = {
        "format": FORMAT,
        "method": spec.method,
        "layout": spec.layout,
        "points": len(points),
        "data": list(points.names),
        "groups": [{"data": data, "class": name} for data, name in points.groups],
        "states": [_state(m) for m in maps],
        "thumbnails": {"cell_px": cell_px, "columns": sprites.COLUMNS, "sheets": sheets},
    }
    write_json(out / "map.json", card, sort=False)


def _state(m: Map) -> dict[str, Any]:
    found = m.found
    return {
        "name": m.name, "label": m.label, "neighbours": found.neighbours, "trustworthiness": found.trustworthiness,
        "continuity": found.continuity, "kept": found.kept, "sizes": list(found.sizes_K),
        "kept_by_size": found.kept_K.tolist(), "chance_by_size": found.chance_K.tolist(),
    }  # fmt: skip


def size(pack: Any) -> int:
    """Pixels of the larger side of a pack's patches."""
    return max(max(group.height, group.width) for group in pack.groups)


def _pictures(points: Points) -> Iterator[NDArray[np.float32]]:
    from ssl_sat.evaluation.pictures import pictures

    for pack, rows in points.parts:
        for first in range(0, len(rows), sprites.PER_SHEET):
            yield pictures(pack, rows[first : first + sprites.PER_SHEET], pack.bands)


def draw(out: Path, points: Points, maps: Sequence[Map], method: str, demo: bool) -> None:
    """The maps side by side, and what they kept of the neighbourhoods."""
    figures.save(map_figures.panels(points, maps, method, demo=demo), out / "map")
    figures.save(map_figures.neighbours_kept(maps, demo=demo), out / "neighbours")
