"""Ask a fine-tuned model what it does not know: out-of-distribution scores, and what a probe without network gets.

    python -m ssl_sat.ood_eval                                   # the latest fine-tuned model, UC Merced as OOD
    python -m ssl_sat.ood_eval tier=held_out                     # the classes that the model was fine-tuned without
    python -m ssl_sat.ood_eval ood=imagefolder ood.root=/data/other mc.passes=50

Every score is higher for more out-of-distribution (OOD). In-distribution data is the test split that the model
was fine-tuned for; detectors see training patches only. AUROC comes with DeLong's interval, and beside it stands
the shortcut probe: twelve image statistics that tell the two data sets apart without any network. A threshold with a
conformal guarantee is set on the validation split, for `ssl_sat.score`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ssl_sat.artifact import Ref
from ssl_sat.data import SOURCES
from ssl_sat.data.spec import DataSpec
from ssl_sat.ood import CODE as OOD_CODE
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.pack import pack_of
from ssl_sat.spec import Spec, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec


class ThresholdSpec(Spec):
    """The share `alpha` of in-distribution images that may be rejected, and whose threshold is deployed.

    detector: null takes the one that validation_classes chose, or else the first of `detectors`.
    """

    alpha: float = Field(0.05, gt=0, lt=1)
    detector: str | None = None


class OodEvalSpec(StageSpec):
    """Which model against which other data. ensemble: models of other seeds that vote with it, for such detectors.

    tier: `data` takes another pack (`ood`, `ood_pack`), `held_out` the classes that the model was fine-tuned without,
    `split` another split of its own pack. ood_split: null takes every split of other data and the test split of
    held-out classes, `all` every split. id_split: test, val, or `unused`, the training patches that the model's subset
    left out. overlapping: classes of the OOD data that the model knows, and that are reported apart; null takes the
    shipped lists. validation_classes: OOD classes that choose the deployed detector, against val patches, and are in no
    reported number. bootstrap: replicates for the intervals that DeLong does not cover, classes resampled whole; 0
    leaves them out.
    """

    registries: ClassVar = {"ood": SOURCES, "detectors": DETECTORS}

    model: str = runtime("latest")
    ensemble: tuple[str, ...] = runtime(())
    tier: Literal["data", "held_out", "split"] = "data"
    ood: SerializeAsAny[DataSpec] = runtime()
    ood_pack: str | None = runtime(None)
    ood_split: str | None = None
    id_split: str = "test"
    overlapping: tuple[str, ...] | None = None
    validation_classes: tuple[str, ...] = ()
    detectors: tuple[SerializeAsAny[Spec], ...] = Field(min_length=1)
    mc: McDropoutSpec = McDropoutSpec()
    threshold: ThresholdSpec = ThresholdSpec()
    bootstrap: int = Field(200, ge=0)
    max_train: int = Field(5000, ge=120)
    max_val: int | None = Field(2000, ge=2)
    max_id: int | None = Field(None, ge=2)
    seed: int = Field(0, ge=0)
    batch_size: int = runtime(256, ge=1)
    device: str = runtime("auto")
    threads: int | None = runtime(None)

    @model_validator(mode="after")
    def _deploys_one_of_its_detectors(self) -> OodEvalSpec:
        names = [spec.name for spec in self.detectors]  # type: ignore[attr-defined]
        if self.threshold.detector not in (None, *names):
            raise ValueError(
                f"threshold.detector={self.threshold.detector} is not among detectors ({', '.join(names)})"
            )
        return self


def run(spec: OodEvalSpec, inputs: Inputs, out: Path) -> Metrics:
    """Predict once per data set, score, measure, draw; return flat metrics."""
    from ssl_sat.evaluation import ood, ood_output, ood_sets

    context = ood_sets.prepare(spec, inputs, out)
    results = ood.evaluate(context, out)
    metrics = {**ood.facts(context, results), **ood.measure(results, spec)}
    ood_output.store(out, context, results)
    ood_output.tables(out, context, results, metrics)
    ood_output.draw(out, context, results)
    return metrics


def _inputs(spec: OodEvalSpec, lookup: Lookup) -> dict[str, Ref]:
    model = lookup.artifact("finetune", spec.model)
    refs = {"model": model, "data": lookup.input_of(model, "data", "pack")}
    refs |= {f"member{n}": lookup.artifact("finetune", path) for n, path in enumerate(spec.ensemble, 1)}
    if spec.tier == "data":
        refs["ood"] = pack_of(spec, lookup, spec.ood, spec.ood_pack, "ood")
    return refs


def _choices(spec: OodEvalSpec, inputs: Mapping[str, Ref]) -> str:
    if spec.tier == "data":
        return f"{inputs['model'].choices}-vs-{inputs['ood'].config['data']['name']}"
    return f"{inputs['model'].choices}-vs-{'held_out' if spec.tier == 'held_out' else spec.ood_split}"


def _science(spec: OodEvalSpec) -> dict[str, Any]:
    return {**spec.science(), "detectors": [detector.science() for detector in spec.detectors]}


def _headline(metrics: Metrics) -> list[str]:
    from ssl_sat.report.ood_table import headline

    return headline(metrics)


OOD_EVAL = Stage(
    "ood_eval",
    3,
    OodEvalSpec,
    run,
    _choices,
    _inputs,
    _science,
    headline=_headline,
    code=(
        "ssl_sat.evaluation.ood",
        "ssl_sat.evaluation.ood_sets",
        "ssl_sat.evaluation.packs",
        "ssl_sat.evaluation.predict",
        "ssl_sat.evaluation.predictions",
        "ssl_sat.augment.views",
        "ssl_sat.augment.geometric",
        *OOD_CODE,
        "ssl_sat.data.held_out",
        "ssl_sat.data.overlap",
        "ssl_sat.data.packed",
        "ssl_sat.precision",
    ),
)


if __name__ == "__main__":
    from ssl_sat.config import main

    main(OOD_EVAL)
