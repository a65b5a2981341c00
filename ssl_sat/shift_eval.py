"""Corrupt the test patches of a fine-tuned model, in reflectance and at five severities: what happens to its answers?

    python -m ssl_sat.shift_eval                                      # the latest fine-tuned model, all corruptions
    python -m ssl_sat.shift_eval 'corruptions=[haze,cloud]' max_patches=500

Covariate shift: the classes stay, the conditions change. Reported are accuracy and calibration, the AUROC of every
detector and of the shortcut probe between clean and corrupted patches, and what a threshold at `alpha` accepts. Display
images (RGB) are brought to reflectance by inverting their stretch, `black` to `white`, which is an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SerializeAsAny

from ssl_sat.artifact import Ref
from ssl_sat.evaluation import corruptions as own
from ssl_sat.evaluation.corruptions import CORRUPTIONS
from ssl_sat.evaluation.corruptions.spec import CorruptionSpec
from ssl_sat.ood import CODE as OOD_CODE
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.spec import Spec, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec


class ShiftEvalSpec(StageSpec):
    """Which model under which corruptions. max_patches: so many corrupted ones, and as many others that stay clean."""

    registries: ClassVar = {"corruptions": CORRUPTIONS, "detectors": DETECTORS}

    model: str = runtime("latest")
    split: str = "test"
    corruptions: tuple[SerializeAsAny[CorruptionSpec], ...] = Field(min_length=1)
    detectors: tuple[SerializeAsAny[Spec], ...] = Field(min_length=1)
    mc: McDropoutSpec = McDropoutSpec()
    alpha: float = Field(0.05, gt=0, lt=1)
    black: float = -0.002
    white: float = 0.277
    max_patches: int = Field(1000, ge=2)
    max_train: int = Field(5000, ge=120)
    max_val: int = Field(2000, ge=2)
    seed: int = Field(0, ge=0)
    batch_size: int = runtime(256, ge=1)
    device: str = runtime("auto")
    threads: int | None = runtime(None)
    progress: bool = runtime(True)


def run(spec: ShiftEvalSpec, inputs: Inputs, out: Path) -> Metrics:
    """Predict clean and corrupted patches, measure, draw; return flat metrics."""
    from ssl_sat.evaluation import shift
    from ssl_sat.progress import counter

    bench = shift.prepare(spec, inputs, out)
    with counter("shift_eval", "patches", spec.progress) as advance:
        rows = shift.evaluate(bench, advance)
    shift.tables(out, bench, rows)
    shift.draw(out, bench, rows)
    return shift.metrics_of(bench, rows)


def _inputs(spec: ShiftEvalSpec, lookup: Lookup) -> dict[str, Ref]:
    model = lookup.artifact("finetune", spec.model)
    return {"model": model, "data": lookup.input_of(model, "data", "pack")}


def _choices(spec: ShiftEvalSpec, inputs: Mapping[str, Ref]) -> str:
    return inputs["model"].choices


def _science(spec: ShiftEvalSpec) -> dict[str, Any]:
    several = {name: [item.science() for item in getattr(spec, name)] for name in ("corruptions", "detectors")}
    return {**spec.science(), **several}


def _headline(metrics: Metrics) -> list[str]:
    clean = metrics["accuracy/none"]
    by_severity = ", ".join(f"{metrics[f'mean/accuracy/{severity}']:.3f}" for severity in own.SEVERITIES)
    return [
        f"accuracy {clean:.3f} without corruption; mean over {metrics['corruptions']} corruptions at severity 1 to 5: "
        f"{by_severity} (n = {metrics['n']})",
        f"reflectance by {metrics['in_reflectance_by']}",
    ]


SHIFT_EVAL = Stage(
    "shift_eval",
    2,
    ShiftEvalSpec,
    run,
    _choices,
    _inputs,
    _science,
    headline=_headline,
    code=(
        "ssl_sat.evaluation.shift",
        "ssl_sat.evaluation.ood",
        "ssl_sat.evaluation.ood_sets",
        "ssl_sat.evaluation.predict",
        *own.CODE,
        "ssl_sat.augment.views",
        "ssl_sat.augment.geometric",
        "ssl_sat.evaluation.predictions",
        "ssl_sat.evaluation.classification",
        *OOD_CODE,
        "ssl_sat.data.held_out",
        "ssl_sat.data.packed",
        "ssl_sat.precision",
    ),
)


if __name__ == "__main__":
    from ssl_sat.config import main

    main(SHIFT_EVAL)
