"""Pretrain an encoder without labels.

    python -m ssl_sat.pretrain encoder=vit                                    # BigEarthNet, SimCLR
    python -m ssl_sat.pretrain data=npy data.root=/data/patches encoder=resnet18 epochs=100

Method: SimCLR (Chen et al. 2020, arXiv:2002.05709). The artifact holds the encoder with its card
(bands, units, normalisation, origin), the projection head, the history and flat metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from ssl_sat import augment, losses, optim, training
from ssl_sat.artifact import Ref
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.data.subset import SubsetSpec, select
from ssl_sat.encoders import ENCODERS, weights
from ssl_sat.encoders.spec import StartSpec
from ssl_sat.methods import METHODS
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.pack import PackedData, pack_of
from ssl_sat.spec import ConfigError, Spec, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage
from ssl_sat.training.spec import TrainerSpec, WatchSpec


class PretrainSpec(StartSpec, PackedData):
    """What to pretrain, on what, how. `bands: null` takes all bands of the pack; batch_size is of all devices."""

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
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    image_size: int = Field(64, ge=8)
    seed: int = Field(0, ge=0)
    watch: WatchSpec = runtime(WatchSpec())


def run(spec: PretrainSpec, inputs: Inputs, out: Path) -> Metrics:
    """Train and write encoder, head, card, history; return flat metrics."""
    from ssl_sat.data.packed import Pack
    from ssl_sat.training import engine, model_io, pretraining, setup

    engine.prepare(spec.trainer, out)
    pack = Pack.open(inputs["data"].path)
    rows = select(pack, setup.rows_of(pack, spec.split), spec.subset)
    encoder, card = setup.starting_encoder(spec, pack, inputs)
    method = METHODS.build(spec.method, encoder=encoder, seed=spec.seed)
    views = setup.views(spec.augment, pack, card, spec.seed, num_views=method.num_views)
    setup.memory_format(method, spec.trainer)
    module = pretraining.PretrainModule(
        method, views, pack, rows, spec.optim, spec.batch_size, spec.seed, spec.trainer.channels_last
    )
    engine.fit(module, spec.trainer, out, epochs=spec.epochs, label="pretrain")
    engine.clear(out)
    setup.record_inputs(out, card, {"data": pack})
    model_io.save_model(out, method.encoder, card)
    model_io.save_head(out, method)
    pretraining.draw_curves(out, demo=inputs["data"].synthetic)
    return pretraining.summarise(out / "history.jsonl", spec, encoder, rows)


def _inputs(spec: PretrainSpec, lookup: Lookup) -> dict[str, Ref]:
    refs = {"data": pack_of(spec, lookup, spec.data, spec.pack)}
    if not weights.is_new(spec.init):
        refs["init"] = lookup.artifact("pretrain", spec.init)
        refuse_conflict(spec, refs["init"])
    return refs


def science(spec: Any) -> dict[str, Any]:
    """The spec's science; what it starts from by fingerprint or sha256, not by path."""
    return weights.science(spec, spec.science())


def refuse_conflict(spec: Any, start: Ref) -> None:
    """An artifact brings its own encoder; another one asked for beside it is a mistake, not a wish."""
    held = ENCODERS.parse(start.config["encoder"])
    if spec.encoder is not None and spec.encoder != held:
        raise ConfigError(
            f"encoder={encoder_label(spec.encoder)} conflicts with init={start.path}, which holds "
            f"{encoder_label(held)} ({held.model_dump()}). Ask for that one, or choose init=scratch."
        )


def _choices(spec: PretrainSpec, inputs: Mapping[str, Ref]) -> str:
    start = "continued-" if "init" in inputs else "" if spec.init == "scratch" else f"{weights.label(spec)}-"
    data = inputs["data"].config["data"]["name"]
    return f"{start}{encoder_label(spec.encoder)}-{data}-{spec.method.name}-s{spec.seed}"  # type: ignore[attr-defined]


def _headline(metrics: Metrics) -> list[str]:
    floor, last, collapse = (metrics[f"{name}_last_epoch"] for name in ("loss_floor", "loss", "loss_collapse"))
    spread = metrics["embedding_std_last_epoch"]
    return [
        f"loss of the last epoch {last:.4f}, of the first {metrics['loss_first_epoch']:.4f}; "
        f"floor {floor:.4f}, collapse {collapse:.4f}",
        f"spread of the embeddings {spread:.3f} (1 = over the whole sphere, 0 = collapsed)",
    ]


def encoder_label(spec: Any) -> str:
    """The encoder's name in an artifact's: the registry's, or timm's for a model chosen by timm's name."""
    return spec.model.replace("/", "_") if spec.name == "timm" else spec.name


PRETRAIN = Stage(
    "pretrain",
    1,
    PretrainSpec,
    run,
    _choices,
    _inputs,
    science,
    distributed=True,
    headline=_headline,
    code=(
        "ssl_sat.training.pretraining",
        "ssl_sat.data.subset",
        *training.CODE,
        *augment.CODE,
        *losses.CODE,
        *optim.CODE,
    ),
)


if __name__ == "__main__":
    from ssl_sat.config import main

    main(PRETRAIN)
