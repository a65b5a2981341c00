"""Ask a fine-tuned model what it does not know: out-of-distribution scores, and what a probe without network gets.

    python -m ssl_sat.ood_eval                                   # the latest fine-tuned model, UC Merced as OOD
    python -m ssl_sat.ood_eval ood=imagefolder ood.root=/data/other mc.passes=50

Every score is higher for more out-of-distribution (OOD). In-distribution data is the test split that the model
was fine-tuned for; detectors see training patches only. AUROC comes with DeLong's interval, and beside it stands
the shortcut probe: twelve image statistics that tell the two data sets apart without any network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny

from ssl_sat.artifact import Ref
from ssl_sat.data import SOURCES
from ssl_sat.data.spec import DataSpec
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.pack import pack_of
from ssl_sat.spec import Spec, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec


class OodEvalSpec(StageSpec):
    """Which model against which other data. `ood_split: null` takes every split of the OOD pack."""

    registries: ClassVar = {"ood": SOURCES, "detectors": DETECTORS}

    model: str = runtime("latest")
    ood: SerializeAsAny[DataSpec] = runtime()
    ood_pack: str | None = runtime(None)
    ood_split: str | None = None
    id_split: str = "test"
    detectors: tuple[SerializeAsAny[Spec], ...]
    mc: McDropoutSpec = McDropoutSpec()
    max_train: int = Field(5000, ge=120)
    max_id: int | None = Field(None, ge=2)
    seed: int = Field(0, ge=0)
    batch_size: int = runtime(256, ge=1)
    device: str = runtime("auto")
    threads: int | None = runtime(None)


def run(spec: OodEvalSpec, inputs: Inputs, out: Path) -> Metrics:
    """Predict once per data set, score, measure, draw; return flat metrics."""
    from ssl_sat.evaluation import ood

    context = ood.prepare(spec, inputs, out)
    sets = ood.predict_sets(context)
    scores = ood.score_sets(context, sets)
    ood.store(out, context, sets, scores)
    ood.draw(out, context, scores)
    return {**ood.facts(context, sets), **ood.measure(scores)}


def _inputs(spec: OodEvalSpec, lookup: Lookup) -> dict[str, Ref]:
    model = lookup.artifact("finetune", spec.model)
    return {
        "model": model,
        "data": lookup.input_of(model, "data", "pack"),
        "ood": pack_of(spec, lookup, spec.ood, spec.ood_pack, "ood"),
    }


def _choices(spec: OodEvalSpec, inputs: Mapping[str, Ref]) -> str:
    return f"{inputs['model'].choices}-vs-{inputs['ood'].config['data']['name']}"


def _science(spec: OodEvalSpec) -> dict[str, Any]:
    return {**spec.science(), "detectors": [detector.science() for detector in spec.detectors]}


def _headline(metrics: Metrics) -> list[str]:
    lines = [f"{metrics['id_data']} ({metrics['n_id']}) against {metrics['ood_data']} ({metrics['n_ood']}); "
             f"accuracy in-distribution {metrics['id_accuracy']:.4f}; T = {metrics['mc_passes']}"]  # fmt: skip
    for name in [key.removesuffix("_auroc") for key in metrics if key.endswith("_auroc")]:
        value, low, high = (metrics[f"{name}_auroc{end}"] for end in ("", "_low", "_high"))
        gain = metrics.get(f"{name}_gain_over_probe")
        beside = "" if gain is None else f", over the probe {gain:+.3f}"
        suspect = "" if metrics[f"{name}_orientation"] == "ok" else f"  {metrics[f'{name}_orientation']}"
        lines.append(f"AUROC {value:.4f} [{low:.4f}, {high:.4f}]  {name}{beside}{suspect}")
    return lines


OOD_EVAL = Stage(
    "ood_eval",
    1,
    OodEvalSpec,
    run,
    _choices,
    _inputs,
    _science,
    headline=_headline,
    code=(
        "ssl_sat.evaluation.ood",
        "ssl_sat.evaluation.packs",
        "ssl_sat.evaluation.predict",
        "ssl_sat.augment.views",
        "ssl_sat.augment.geometric",
        "ssl_sat.ood.mc_dropout",
        "ssl_sat.ood.keyed_dropout",
        "ssl_sat.ood.metrics",
        "ssl_sat.ood.gaussian",
        "ssl_sat.ood.shortcut_probe",
        "ssl_sat.data.packed",
        "ssl_sat.precision",
    ),
)


if __name__ == "__main__":
    from ssl_sat.config import main

    main(OOD_EVAL)
