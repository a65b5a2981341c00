"""A map artifact's files without a network: random places, patches of one colour each, names of one's choice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ssl_sat.report import map_files, sprites
from ssl_sat.report.faithful import faithfulness
from ssl_sat.report.maps import Map, Points

CELL_PX = 16


def colour(n: int) -> tuple[int, int, int]:
    """What patch n is painted in."""
    return 40 + 97 * n % 190, 40 + 59 * n % 190, 40 + 31 * n % 190


def write_map(
    folder: Path, classes: tuple[str, ...], names: tuple[str, str] = ("inside", "outside"), count: int = 300
) -> Points:
    """Patches in equal numbers by class, the last class out of distribution; two states, the second in clusters."""
    rng = np.random.default_rng(0)
    group_N = np.arange(count) % len(classes)
    ood_N = group_N == len(classes) - 1
    own = tuple((names[int(k == len(classes) - 1)], name) for k, name in enumerate(classes))
    points = Points(
        features_ND=np.empty((count, 0), np.float32), ood_N=ood_N, group_N=group_N, groups=own,
        ids=tuple(f"{classes[k]}/{n:04d}.tif" for n, k in enumerate(group_N)),
        labels=tuple(classes[k] for k in group_N),
        said=tuple(classes[(k + n) % 2] for n, k in enumerate(group_N)),
        right=tuple(None if ood else n % 2 == 0 for n, ood in enumerate(ood_N)), names=names, parts=(),
    )  # fmt: skip
    centres = np.stack([np.cos(np.arange(len(classes))), np.sin(np.arange(len(classes)))], 1) * 5
    features = [rng.normal(0, 1, (count, 8)), np.pad(centres[group_N], ((0, 0), (0, 6))) + rng.normal(0, 1, (count, 8))]
    places = [rng.uniform(-8, 8, (count, 2)), centres[group_N] + rng.normal(0, 0.9, (count, 2))]
    maps = [
        Map(name, label, xy.astype(np.float32), faithfulness(x, xy, neighbours=15))
        for name, label, xy, x in zip(("untrained", "finetuned"), ("untrained", "tuned"), places, features, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.array([np.full((CELL_PX, CELL_PX, 3), colour(n), float) for n in range(count)], np.float32) / 255
    sheets = sprites.write_sheets(folder, [pictures], CELL_PX)
    map_files.write_rows(folder, points, maps)
    map_files.write_card(folder, points, maps, SimpleNamespace(method="umap", layout="seeded"), CELL_PX, sheets)
    return points
