"""The map of features of in- and out-of-distribution patches: chosen points, layout, how far to trust it, figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.evaluation.predict import Predictions
from ssl_sat.report import figures
from ssl_sat.report.projection import project, trustworthiness
from ssl_sat.seeding import key


@dataclass(frozen=True, eq=False)
class Points:
    """N patches with features (N, D), class number (-1 for OOD), and whether they are out-of-distribution."""

    features_ND: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    ood_N: NDArray[np.bool_]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    names: tuple[str, str]  # of the in- and the out-of-distribution data set


def load_points(folder: Path, most: int, seed: int) -> Points:
    """Read the predictions of an ood_eval artifact; of more than `most` patches a seeded choice in proportion."""
    inside, outside = (Predictions.load(folder / f"predictions-{name}") for name in ("id", "ood"))
    total = len(inside) + len(outside)
    if total > most:
        inside, outside = (_choice(part, max(2, round(most * len(part) / total)), seed) for part in (inside, outside))
    return Points(
        features_ND=np.concatenate([inside.features_ND, outside.features_ND]),
        labels_N=np.concatenate([inside.labels_N, np.full(len(outside), -1, np.int64)]),
        ood_N=np.arange(len(inside) + len(outside)) >= len(inside),
        ids=(*inside.ids, *outside.ids),
        classes=inside.classes,
        names=(inside.dataset, outside.dataset),
    )


def _choice(predictions: Predictions, count: int, seed: int) -> Predictions:
    generator = np.random.Generator(np.random.Philox(key=key(seed, "map-points", predictions.dataset)))
    return predictions.take(np.sort(generator.permutation(len(predictions))[:count]))


def project_points(points: Points, spec: Any) -> NDArray[np.float32]:
    """UMAP coordinates (N, 2) of all points together."""
    return project(points.features_ND, seed=spec.seed, neighbours=spec.neighbours, min_dist=spec.min_dist)


def measure(points: Points, xy_N2: NDArray[np.float32], spec: Any) -> dict[str, Any]:
    """How far the map can be trusted, and on what it was made."""
    value = trustworthiness(points.features_ND, xy_N2, seed=spec.seed, neighbours=spec.neighbours)
    n_ood = int(points.ood_N.sum())
    return {
        "trustworthiness": value,
        "n_id": len(xy_N2) - n_ood,
        "n_ood": n_ood,
        "features": points.features_ND.shape[1],
        "id_data": points.names[0],
        "ood_data": points.names[1],
    }


def store(out: Path, points: Points, xy_N2: NDArray[np.float32]) -> None:
    """Write one row a point: id, set, class, coordinates."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [points.classes[label] if label >= 0 else None for label in points.labels_N]
    sets = np.where(points.ood_N, "ood", "id").tolist()
    columns = {"id": list(points.ids), "set": sets, "class": names, "x": xy_N2[:, 0], "y": xy_N2[:, 1]}
    pq.write_table(pa.table(columns), out / "map.parquet")


def draw(out: Path, points: Points, xy_N2: NDArray[np.float32], trust: float, demo: bool) -> None:
    """The map as PNG and PDF."""
    inside, outside = points.names
    title = f"UMAP of features: {inside} against {outside} (trustworthiness {trust:.3f})"
    figure = figures.feature_map(
        xy_N2, points.labels_N, points.classes, points.ood_N, title=title, ood_name=outside, demo=demo
    )
    figures.save(figure, out / "umap")
