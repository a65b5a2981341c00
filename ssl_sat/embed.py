"""Turn patches into features with their ids, one file: for search, clustering, a probe of one's own.

    python -m ssl_sat.embed model=latest images=/data/pictures to=features.parquet      # any folder of RGB images
    python -m ssl_sat.embed model=<artifact> data=geotiff data.root=/data/tiles to=features.npy
    python -m ssl_sat.embed model=<artifact> pack=outputs/pack/latest split=test

With data.root or images the files are read as they stream by and no pack is made. Unreadable ones are listed with
their reasons in unreadable.csv and counted, never replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SerializeAsAny, field_validator

from ssl_sat import augment
from ssl_sat.artifact import Artifact, Ref, latest
from ssl_sat.data import SOURCES
from ssl_sat.data.spec import DataSpec, ImageFolderSpec
from ssl_sat.pack import pack_of
from ssl_sat.spec import MissingInput, UserError, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec, execute

MODELS = ("pretrain", "finetune")


class EmbedSpec(StageSpec):
    """Which encoder, on what. images: a folder of RGB images at any depth, each resized to the encoder's image size."""

    registries: ClassVar = {"data": SOURCES}

    model: str = runtime("latest")
    data: SerializeAsAny[DataSpec] = runtime()  # its science is in the fingerprint where the files are read
    pack: str | None = runtime(None)
    images: str | None = runtime(None)
    split: str | None = None
    to: str | None = runtime(None)
    batch_size: int = runtime(256, ge=1)
    device: str = runtime("auto")
    threads: int | None = runtime(None)
    progress: bool = runtime(True)

    @field_validator("to")
    @classmethod
    def _format(cls, to: str | None) -> str | None:
        if to is not None and Path(to).suffix not in (".npy", ".parquet"):
            raise ValueError("a file that ends in .npy or .parquet is needed")
        return to


def source_of(spec: EmbedSpec) -> DataSpec | None:
    """The raw files to read, None where a pack is."""
    if spec.images is not None:
        return ImageFolderSpec(
            root=spec.images, labels="none", split="none", split_name="all", size_px=None, suffix_in_id=True
        )
    return spec.data if spec.pack is None and spec.data.root is not None else None


def run(spec: EmbedSpec, inputs: Inputs, out: Path) -> Metrics:
    """Write features.parquet and unreadable.csv; return counts."""
    import torch

    from ssl_sat.evaluation.embedding import Embedder, embed_pack, embed_source
    from ssl_sat.evaluation.packs import choose_device
    from ssl_sat.progress import counter
    from ssl_sat.provenance import device_facts
    from ssl_sat.stage import record_facts

    if spec.threads:
        torch.set_num_threads(spec.threads)
    embedder = Embedder(inputs["model"].path, choose_device(spec.device), spec.batch_size)
    source = source_of(spec)
    record_facts(out, device=device_facts())
    with counter("embed", "patches", spec.progress) as advance:
        if source is None:
            return embed_pack(embedder, inputs["data"].path, spec.split, out, advance)
        if spec.images is not None:
            source = source.model_copy(update={"size_px": embedder.card.image_size})
        return embed_source(embedder, source, spec.split, out, advance)


def model_artifact(lookup: Lookup, value: str) -> Ref:
    """Resolve the artifact of an encoder: a path, or 'latest' (pretrained, or else fine-tuned)."""
    if value == "latest":
        try:
            latest("pretrain", lookup.outputs)
        except MissingInput:
            return lookup.artifact("finetune", value)
        return lookup.artifact("pretrain", value)
    ref = lookup.planned.get(Path(value)) or Artifact.open(value).ref
    if ref.stage not in MODELS:
        raise UserError(f"{value} is an artifact of stage '{ref.stage}'; one of {' or '.join(MODELS)} is needed here.")
    return ref


def _inputs(spec: EmbedSpec, lookup: Lookup) -> dict[str, Ref]:
    refs = {"model": model_artifact(lookup, spec.model)}
    if source_of(spec) is None:
        refs["data"] = pack_of(spec, lookup, spec.data, spec.pack)
    return refs


def _science(spec: EmbedSpec) -> dict[str, Any]:
    from ssl_sat.data.packing import files_digest, source_digest

    source = source_of(spec)
    if source is None:
        return spec.science()
    files = {**source_digest(source), "files_sha256": files_digest(Path(source.root or "").expanduser())}
    version = SOURCES[source.name].version
    return {**spec.science(), "data": source.science(), "source": files, "source_version": version}


def _choices(spec: EmbedSpec, inputs: Mapping[str, Ref]) -> str:
    data = "images" if spec.images else inputs["data"].config["data"]["name"] if "data" in inputs else spec.data.name
    return "-".join([inputs["model"].choices, "on", data, *([spec.split] if spec.split else [])])


def _headline(metrics: Metrics) -> list[str]:
    unreadable = f", {metrics['unreadable']} unreadable (unreadable.csv)" if metrics["unreadable"] else ""
    return [f"{metrics['n']} patches, {metrics['dim']} features each{unreadable}"]


EMBED = Stage(
    "embed",
    2,
    EmbedSpec,
    run,
    _choices,
    _inputs,
    _science,
    headline=_headline,
    code=("ssl_sat.evaluation.embedding", "ssl_sat.data.packed", *augment.CODE),
)


def task(spec: EmbedSpec) -> None:
    """Make or find the artifact; put a copy where `to` says."""
    artifact = execute(EMBED, spec)
    if spec.to is not None:
        from ssl_sat.evaluation.embedding import deliver

        for path in deliver(artifact.path, Path(spec.to).expanduser()):
            print(f"  {path}", flush=True)


if __name__ == "__main__":
    from ssl_sat import config

    config.run("embed", EmbedSpec, task)
