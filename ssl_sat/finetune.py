"""Fine-tune an encoder on labelled patches, in phases.

    python -m ssl_sat.finetune                                     # the latest pretrained encoder
    python -m ssl_sat.finetune init=outputs/pretrain/vit-bigearthnet_v1-simclr-s0
    python -m ssl_sat.finetune init=scratch encoder=resnet18 phases=full epochs=10

Encoder, bands and normalisation come from the starting artifact. Where the data has other bands, the stem
is mapped (`stem=by_name|by_wavelength|mean|random`). Test accuracy is measured once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from ssl_sat import augment, optim, training
from ssl_sat.artifact import Ref
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.data.subset import SubsetSpec
from ssl_sat.encoders import ENCODERS, weights
from ssl_sat.encoders.spec import StartSpec
from ssl_sat.encoders.start import encoder_label, refuse_conflict, science
from ssl_sat.methods.spec import HeadSpec
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.pack import PackedData, pack_of
from ssl_sat.ranks import is_main_process
from ssl_sat.report import headlines
from ssl_sat.spec import ConfigError, Spec, later
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage
from ssl_sat.training.finetune_spec import MixSpec, PhasesSpec, with_epochs
from ssl_sat.training.imbalance import IMBALANCES
from ssl_sat.training.imbalance.spec import NoneSpec
from ssl_sat.training.spec import TrainerSpec


class FinetuneSpec(StartSpec, PackedData):
    """What to fine-tune, from which start, on what, in which phases. batch_size is of all devices.

    held_out: classes that the model shall not know; their patches leave every split, and `ood_eval tier=held_out` asks
    for them. encoder_dropout, drop_path: in the place of the encoder's own; the head's dropout is head.dropout.
    """

    registries: ClassVar = {**PackedData.registries, "encoder": ENCODERS, "imbalance": IMBALANCES}

    init: str = "latest"
    encoder: SerializeAsAny[Spec] | None = None
    stem: Literal["by_name", "by_wavelength", "mean", "random"] = "by_name"
    normalisation: Literal["auto", "weights", "data"] = later("auto")
    head: HeadSpec = HeadSpec()
    phases: PhasesSpec
    augment: AugmentSpec
    optim: OptimSpec
    trainer: TrainerSpec = TrainerSpec()
    bands: tuple[str, ...] | None = None
    subset: SubsetSpec | None = None
    held_out: tuple[str, ...] = later(())
    batch_size: int = Field(ge=2)
    image_size: int | None = Field(None, ge=8)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    encoder_dropout: float | None = later(None, ge=0, lt=1)
    drop_path: float | None = later(None, ge=0, lt=1)
    mix: MixSpec = later(MixSpec())
    imbalance: SerializeAsAny[Spec] = later(NoneSpec())
    seed: int = Field(0, ge=0)

    @field_validator("held_out")
    @classmethod
    def _in_any_order(cls, held_out: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(held_out)))

    @model_validator(mode="before")
    @classmethod
    def _epochs_of_one_phase(cls, values: Any) -> Any:
        """`epochs=10` is short for the epochs of the only phase; with several it says which key to set."""
        values = {**values}
        epochs = values.pop("epochs", None)
        if epochs is not None:
            values["phases"] = with_epochs(values["phases"], epochs)
        return values

    def science(self) -> dict[str, Any]:
        """Where no image size is asked for, that of the encoder is, if it is not the study's 64."""
        own = super().science()
        new = self.image_size is None and self.encoder is not None and weights.is_new(self.init)
        return {**own, "image_size": "own"} if new and self.encoder.own_image_size != 64 else own  # type: ignore[union-attr]


def run(spec: FinetuneSpec, inputs: Inputs, out: Path) -> Metrics:
    """Train phase by phase, write the classifier, evaluate val and test; return flat metrics."""
    from ssl_sat.data.held_out import without_classes
    from ssl_sat.data.packed import Pack
    from ssl_sat.data.subset import select
    from ssl_sat.evaluation.finetuned import evaluate
    from ssl_sat.training import engine, model_io, phases, setup
    from ssl_sat.training.regularisation import regularised
    from ssl_sat.training.task import Task

    engine.prepare(spec.trainer, out)
    pack = without_classes(Pack.open(inputs["data"].path), spec.held_out)
    task = Task.of(pack)
    encoder, card = regularised(*setup.starting_encoder(spec, pack, inputs), spec)
    about = {"classes": list(task.classes), "task": task.kind, "head": spec.head.model_dump()}
    card = card.model_copy(update=about)
    model = model_io.with_head(encoder, card, spec.seed)
    setup.memory_format(model, spec.trainer)
    views = setup.views(spec.augment, pack, card, spec.seed, num_views=1)
    counts = phases.train_phases(spec, model, views, pack, task, out)
    if not is_main_process():
        return {}
    setup.record_inputs(out, card, {"data": pack})
    model_io.save_model(out, model, card)
    demo = any(item.synthetic for item in inputs.values())
    rows = select(pack, pack.rows("train"), spec.subset)
    measured = evaluate(
        model, views, pack, out, spec.batch_size, demo,
        train_rows=rows, start=lambda: setup.starting_encoder(spec, pack, inputs)[0],
    )  # fmt: skip
    origin = {"normalisation": card.normalisation.origin, "initialisation": setup.initialisation(spec, inputs)}
    return {**counts, **measured, "bands": ",".join(card.bands), **origin}


def _inputs(spec: FinetuneSpec, lookup: Lookup) -> dict[str, Ref]:
    if weights.is_new(spec.init):
        if spec.encoder is None:
            raise ConfigError(f"init={spec.init} needs an encoder, as in encoder=resnet18")
        return {"data": pack_of(spec, lookup, spec.data, spec.pack)}
    start = lookup.artifact("pretrain", spec.init)
    refuse_conflict(spec, start)
    return {"data": pack_of(spec, lookup, spec.data, spec.pack), "init": start}


def _choices(spec: FinetuneSpec, inputs: Mapping[str, Ref]) -> str:
    encoder = spec.encoder or ENCODERS.parse(inputs["init"].config["encoder"])
    start = inputs["init"].config["method"]["name"] if "init" in inputs else weights.label(spec)
    data = inputs["data"].config["data"]["name"]
    without = f"-without-{'+'.join(spec.held_out)}" if spec.held_out else ""
    against = "" if spec.imbalance == NoneSpec() else f"-{spec.imbalance.name}"  # type: ignore[attr-defined]
    return f"{encoder_label(encoder)}-{start}-{data}{without}-{spec.phases.name}{against}-s{spec.seed}"


FINETUNE = Stage(
    "finetune",
    1,
    FinetuneSpec,
    run,
    _choices,
    _inputs,
    science,
    distributed=True,
    headline=headlines.finetuning,
    code=(
        *(
            f"ssl_sat.training.{name}"
            for name in ("finetuning", "phases", "freezing", "rates", "supervision", "mixing")
        ),
        *(f"ssl_sat.training.{name}" for name in ("classifier", "task", "regularisation", "imbalance.balance")),
        "ssl_sat.encoders.layers",
        "ssl_sat.encoders.stages",
        "ssl_sat.data.subset",
        "ssl_sat.data.splits",
        *(f"ssl_sat.evaluation.{name}" for name in ("classification", "finetuned", "multilabel", "overfitting")),
        *(f"ssl_sat.evaluation.{name}" for name in ("calibration", "packs", "predict", "predictions", "probes")),
        *training.CODE,
        *augment.CODE,
        *optim.CODE,
    ),
)


if __name__ == "__main__":
    from ssl_sat.config import main

    main(FINETUNE)
