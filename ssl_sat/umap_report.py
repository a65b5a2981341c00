"""Draw the features of in- and out-of-distribution patches as a UMAP map (McInnes et al. 2018, arXiv:1802.03426).

    python -m ssl_sat.umap_report                                # the latest ood_eval
    python -m ssl_sat.umap_report features=outputs/ood_eval/... neighbours=30

A map is a picture, not a measurement: trustworthiness (Venna & Kaski 2001) is
printed on it and stored as a metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from ssl_sat.artifact import Ref
from ssl_sat.spec import runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec


class UmapReportSpec(StageSpec):
    """Which stored features, and the map's settings: the study's 15 neighbours and min_dist 0.1; cosine distance."""

    features: str = runtime("latest")
    neighbours: int = Field(15, ge=2)
    min_dist: float = Field(0.1, ge=0, le=1)
    max_points: int = Field(5000, ge=20)
    seed: int = Field(0, ge=0)


def run(spec: UmapReportSpec, inputs: Inputs, out: Path) -> Metrics:
    """Project, measure how far the map can be trusted, draw it as PNG and PDF; return flat metrics."""
    from ssl_sat.report import maps

    source = inputs["features"]
    points = maps.load_points(source.path, spec.max_points, spec.seed)
    layout = maps.project_points(points, spec)
    metrics = maps.measure(points, layout, spec)
    maps.store(out, points, layout)
    maps.draw(out, points, layout, metrics["trustworthiness"], demo=source.synthetic)
    return metrics


def _inputs(spec: UmapReportSpec, lookup: Lookup) -> dict[str, Ref]:
    return {"features": lookup.artifact("ood_eval", spec.features)}


def _choices(spec: UmapReportSpec, inputs: Mapping[str, Ref]) -> str:
    return inputs["features"].choices


UMAP_REPORT = Stage(
    "umap_report",
    1,
    UmapReportSpec,
    run,
    _choices,
    _inputs,
    code=("ssl_sat.report.maps", "ssl_sat.report.projection"),
    headline=lambda metrics: [f"trustworthiness {metrics['trustworthiness']:.3f}; figure: umap.png, umap.pdf"],
)


if __name__ == "__main__":
    from ssl_sat.config import main

    main(UMAP_REPORT)
