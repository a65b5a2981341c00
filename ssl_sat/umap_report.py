"""Draw what an encoder makes of in- and out-of-distribution patches as maps, before and after it was trained.

    python -m ssl_sat.umap_report                                # the latest ood_eval
    python -m ssl_sat.umap_report features=outputs/ood_eval/... neighbours=30
    python -m ssl_sat.umap_report layout=fast                    # all threads, another picture every time
    python -m ssl_sat.umap_report method=pca                     # or tsne

UMAP (McInnes et al. 2018, arXiv:1802.03426) of the same patches untrained, before and after fine-tuning, in one
layout. A map is a picture, not a measurement: trustworthiness and continuity (Venna & Kaski 2001) and the share of
nearest neighbours that it kept are stored as metrics and stand on it. `python -m ssl_sat.report` makes a page of it
in which every point shows its patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ssl_sat import augment, training
from ssl_sat.artifact import Artifact, Ref
from ssl_sat.spec import UserError, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec

_BEFORE = ("untrained", "start")


class UmapReportSpec(StageSpec):
    """Which stored features, and the map's settings: the study's 15 neighbours and min_dist 0.1; cosine distance.

    states: the moments that get a map. `start` is what fine-tuning started from, where that was not an untrained
    network; `finetuned` are the stored features. layout: `seeded` gives the same picture every time in one thread,
    `fast` uses all threads and does not.
    """

    features: str = runtime("latest")
    states: tuple[Literal["untrained", "start", "finetuned"], ...] = ("untrained", "start", "finetuned")
    method: Literal["umap", "pca", "tsne"] = "umap"
    layout: Literal["seeded", "fast"] = "seeded"
    neighbours: int = Field(15, ge=2)
    min_dist: float = Field(0.1, ge=0, le=1)
    max_points: int = Field(5000, ge=20)
    seed: int = Field(0, ge=0)
    batch_size: int = runtime(256, ge=1)
    device: str = runtime("auto")

    @field_validator("states")
    @classmethod
    def _in_their_order(cls, states: tuple[str, ...]) -> tuple[str, ...]:
        if not states:
            raise ValueError("name at least one of untrained, start, finetuned")
        return tuple(name for name in (*_BEFORE, "finetuned") if name in states)


def run(spec: UmapReportSpec, inputs: Inputs, out: Path) -> Metrics:
    """Features of every state, one layout, how far each map can be trusted, pictures, figures; return flat metrics."""
    from ssl_sat.report import map_files, maps

    points = maps.load_points(inputs["features"].path, spec.max_points, spec.seed, _packs(inputs))
    states = [*_before(spec, inputs, points), *([maps.tuned(points)] if "finetuned" in spec.states else [])]
    if not states:
        raise UserError("no state to draw: the model was trained from scratch. Add finetuned or untrained to states.")
    drawn = maps.drawn(states, spec)
    map_files.store(out, points, drawn, spec)
    map_files.draw(out, points, drawn, spec.method, demo=inputs["features"].synthetic)
    return maps.measure(points, drawn)


def _packs(inputs: Inputs) -> tuple[Path, Path]:
    return inputs["data"].path, inputs["ood" if "ood" in inputs else "data"].path


def _before(spec: UmapReportSpec, inputs: Inputs, points: Any) -> list[Any]:
    """The states before fine-tuning that are asked for, with their features."""
    if not set(_BEFORE) & {*spec.states}:
        return []
    from ssl_sat.evaluation import states
    from ssl_sat.evaluation.packs import choose_device
    from ssl_sat.finetune import FINETUNE
    from ssl_sat.report import maps

    tuning = FINETUNE.spec.parse(inputs["model"].config)
    start: dict[str, Artifact] = {"init": inputs["init"]} if "init" in inputs else {}
    pack = points.parts[0][0]
    found = [s for s in states.before_tuning(tuning, pack, start) if s.name in spec.states]
    device = choose_device(spec.device)
    return [maps.State(s.name, s.label, states.features(s, points.parts, device, spec.batch_size)) for s in found]


def _inputs(spec: UmapReportSpec, lookup: Lookup) -> dict[str, Ref]:
    source = lookup.artifact("ood_eval", spec.features)
    refs = {"features": source, "data": lookup.input_of(source, "data", "pack")}
    if "ood" in (source.inputs or {}):
        refs["ood"] = lookup.input_of(source, "ood", "pack")
    if set(_BEFORE) & {*spec.states}:
        refs["model"] = lookup.input_of(source, "model", "finetune")
        if "init" in (refs["model"].inputs or {}):
            refs["init"] = lookup.input_of(refs["model"], "init", "pretrain")
    return refs


def _choices(spec: UmapReportSpec, inputs: Mapping[str, Ref]) -> str:
    return inputs["features"].choices if spec.method == "umap" else f"{spec.method}-{inputs['features'].choices}"


def _headline(metrics: Metrics) -> list[str]:
    names = [name.removesuffix("_trustworthiness") for name in metrics if name.endswith("_trustworthiness")]
    kept = [
        f"{name}: trustworthiness {metrics[f'{name}_trustworthiness']:.3f}, "
        f"{metrics[f'{name}_kept']:.0%} of the {metrics['neighbours']} nearest neighbours kept"
        for name in (*_BEFORE, "finetuned")
        if name in names
    ]
    return [*kept, "figures: map.png, map.pdf, map.svg, neighbours.png"]


UMAP_REPORT = Stage(
    "umap_report",
    2,
    UmapReportSpec,
    run,
    _choices,
    _inputs,
    code=(
        *(f"ssl_sat.report.{name}" for name in ("maps", "map_files", "projection", "faithful")),
        *(f"ssl_sat.evaluation.{name}" for name in ("states", "ood_sets", "packs", "predict", "predictions")),
        *training.CODE,
        *augment.CODE,
    ),
    headline=_headline,
)


if __name__ == "__main__":
    from ssl_sat.config import main

    main(UMAP_REPORT)
