"""Pretrain an encoder without labels.

    python -m ssl_sat.pretrain encoder=vit                                    # BigEarthNet, SimCLR
    python -m ssl_sat.pretrain data=npy data.root=/data/patches encoder=resnet18 epochs=100
    python -m ssl_sat.pretrain augment=simclr_rgb data=eurosat_rgb show_views=true     # a picture, no training
    python -m ssl_sat.pretrain method=byol data=eurosat_rgb augment=simclr_rgb         # docs/methods.md: which, when

Method: SimCLR (Chen et al. 2020, arXiv:2002.05709), or one of methods/. The artifact holds the encoder with its card
(bands, units, normalisation, origin), the projection head, the history and flat metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from ssl_sat import augment, losses, methods, optim, training
from ssl_sat.artifact import Artifact, Ref
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.data.subset import SubsetSpec, select
from ssl_sat.encoders import ENCODERS, start, weights
from ssl_sat.encoders.spec import StartSpec
from ssl_sat.methods import METHODS
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.pack import PackedData, pack_of
from ssl_sat.ranks import is_main_process
from ssl_sat.report import headlines
from ssl_sat.spec import Spec, later, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, execute
from ssl_sat.training.spec import TrainerSpec, WatchSpec


class PretrainSpec(StartSpec, PackedData):
    """What to pretrain, on what, how. `bands: null` takes all bands of the pack.

    batch_size: patches of one optimiser step, over all devices; rates scale with it. Two ways to fit it into memory:
    accumulate: forward passes a step is divided into. A contrastive loss then sees the negatives of batch_size /
    accumulate patches only, so it is another objective than that of the whole batch.
    cache_chunk: patches that one device embeds at a time, with all negatives (exact but for batch norm, which
    normalises within a chunk), at the price of a second forward pass. held_out: classes of a labelled pack whose
    patches are left out, so that they are unseen and not only unlabelled when a classifier is later asked about them.
    """

    registries: ClassVar = {**PackedData.registries, "encoder": ENCODERS, "method": METHODS}

    encoder: SerializeAsAny[Spec]
    method: SerializeAsAny[Spec]
    augment: AugmentSpec
    optim: OptimSpec
    trainer: TrainerSpec = TrainerSpec()
    stem: Literal["by_name", "by_wavelength", "mean", "random"] = "by_name"
    bands: tuple[str, ...] | None = None
    split: str = "train"
    subset: SubsetSpec | None = None
    held_out: tuple[str, ...] = later(())
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    accumulate: int = Field(1, ge=1)
    cache_chunk: int | None = Field(None, ge=1)
    image_size: int = Field(64, ge=8)
    seed: int = Field(0, ge=0)
    watch: WatchSpec = runtime(WatchSpec())
    show_views: bool = runtime(False)

    @field_validator("held_out")
    @classmethod
    def _in_any_order(cls, held_out: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(held_out)))

    @model_validator(mode="after")
    def _parts_are_whole(self) -> Self:
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise ValueError(f"batch_size={self.batch_size} cannot be divided into accumulate={self.accumulate} parts")
        return self


def run(spec: PretrainSpec, inputs: Inputs, out: Path) -> Metrics:
    """Train and write encoder, head, card, history; return flat metrics."""
    from ssl_sat.data.held_out import without_classes
    from ssl_sat.data.packed import Pack
    from ssl_sat.training import engine, model_io, pretraining, setup, watching

    engine.prepare(spec.trainer, out)
    pack = without_classes(Pack.open(inputs["data"].path), spec.held_out)
    rows = select(pack, setup.rows_of(pack, spec.split), spec.subset)
    encoder, card = setup.starting_encoder(spec, pack, inputs)
    method = METHODS.build(spec.method, encoder=encoder, seed=spec.seed)
    views = setup.views(spec.augment, pack, card, spec.seed, num_views=method.num_views)
    setup.memory_format(method, spec.trainer)
    if spec.trainer.compile:
        views.compile()
    module = pretraining.PretrainModule(
        method, views, pack, rows, spec.optim, spec.batch_size, spec.seed, spec.trainer,
        spec.accumulate, spec.cache_chunk,
    )  # fmt: skip
    watch = watching.build(spec, pack, rows, card, views, out, _watched(spec))
    engine.fit(
        module, spec.trainer, out, epochs=spec.epochs, label="pretrain", callbacks=[watch], accumulate=spec.accumulate
    )
    if not is_main_process():
        return {}
    engine.clear(out)
    setup.record_inputs(out, card, {"data": pack})
    model_io.save_model(out, method.encoder, card)
    model_io.save_head(out, method)
    pretraining.draw_curves(out, demo=inputs["data"].synthetic)
    history = out / "history.jsonl"
    found = pretraining.summarise(history, spec, encoder, rows, card.initialisation)
    return {**found, **watching.summary(history, watch)}


def _watched(spec: PretrainSpec) -> Path | None:
    """The labelled pack to watch with. No input: weights do not depend on it, so nor does the fingerprint."""
    if (spec.watch.data is None and spec.watch.pack is None) or not is_main_process():
        return None
    lookup = Lookup(Path(spec.outputs))
    return pack_of(spec, lookup, spec.watch.data or spec.data, spec.watch.pack, "watch.data").path


def _inputs(spec: PretrainSpec, lookup: Lookup) -> dict[str, Ref]:
    refs = {"data": pack_of(spec, lookup, spec.data, spec.pack)}
    if not weights.is_new(spec.init):
        refs["init"] = lookup.artifact("pretrain", spec.init)
        start.refuse_conflict(spec, refs["init"])
    return refs


def _choices(spec: PretrainSpec, inputs: Mapping[str, Ref]) -> str:
    origin = "continued-" if "init" in inputs else "" if spec.init == "scratch" else f"{weights.label(spec)}-"
    data = inputs["data"].config["data"]["name"]
    without = f"-without-{'+'.join(spec.held_out)}" if spec.held_out else ""
    return f"{origin}{start.encoder_label(spec.encoder)}-{data}{without}-{spec.method.name}-s{spec.seed}"  # type: ignore[attr-defined]


PRETRAIN = Stage(
    "pretrain",
    1,
    PretrainSpec,
    run,
    _choices,
    _inputs,
    start.science,
    distributed=True,
    headline=headlines.pretraining,
    code=(
        "ssl_sat.training.pretraining",
        "ssl_sat.training.gradient_cache",
        "ssl_sat.training.watching",
        *(f"ssl_sat.evaluation.{name}" for name in ("packs", "probes", "classification", "multilabel")),
        "ssl_sat.data.subset",
        "ssl_sat.data.splits",
        *training.CODE,
        *augment.CODE,
        *losses.CODE,
        *optim.CODE,
        *methods.CODE,
    ),
)


def command(spec: PretrainSpec) -> None:
    """Pretrain; or with `show_views=true` draw what the recipe does to some patches, and train nothing."""
    if not spec.show_views:
        execute(PRETRAIN, spec)
        return
    refs = _inputs(spec, Lookup(Path(spec.outputs)))  # before anything heavy: it may have to tell what is missing
    from ssl_sat.training import show_views

    print(show_views.run(spec, {slot: Artifact.open(ref.path) for slot, ref in refs.items()}))


if __name__ == "__main__":
    from ssl_sat import config

    config.run(PRETRAIN.name, PretrainSpec, command)
