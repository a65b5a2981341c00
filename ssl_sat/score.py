"""Judge images by a fine-tuned model: class, confidence, OOD score, and whether to trust it; one row an image.

    python -m ssl_sat.score model=latest images=/data/pictures to=scores.csv      # any folder of RGB images
    python -m ssl_sat.score model=outputs/ood_eval/... data=geotiff data.root=/data/tiles to=scores.parquet
    python -m ssl_sat.score model=outputs/finetune/... images=/data/pictures by=knn

An evaluation (ssl_sat.ood_eval) holds the threshold: it accepts at least a share 1 - alpha of images like those the
model was made for. Images stream by, any number of them; they are decoded as the training data was. Unreadable ones
are listed with their reasons in unreadable.csv and counted, never replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SerializeAsAny, field_validator

from ssl_sat import augment
from ssl_sat.artifact import Artifact, Ref, outputs_of, shown
from ssl_sat.data import SOURCES
from ssl_sat.data.spec import DataSpec, ImageFolderSpec
from ssl_sat.ood import CODE as OOD_CODE
from ssl_sat.pack import pack_of
from ssl_sat.spec import ConfigError, MissingInput, UserError, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec, execute


class ScoreSpec(StageSpec):
    """Which evaluation (or model: then its newest one), on what, by which detector. images: a folder of RGB images."""

    registries: ClassVar = {"data": SOURCES}

    model: str = runtime("latest")
    data: SerializeAsAny[DataSpec] = runtime()  # its science is in the fingerprint where the files are read
    pack: str | None = runtime(None)
    images: str | None = runtime(None)
    split: str | None = None
    by: str | None = None
    to: str | None = runtime(None)
    batch_size: int = runtime(256, ge=1)
    device: str = runtime("auto")
    threads: int | None = runtime(None)
    progress: bool = runtime(True)

    @field_validator("to")
    @classmethod
    def _format(cls, to: str | None) -> str | None:
        if to is not None and Path(to).suffix not in (".csv", ".parquet"):
            raise ValueError("a file that ends in .csv or .parquet is needed")
        return to


def source_of(spec: ScoreSpec, decode: Mapping[str, Any]) -> DataSpec | None:
    """The raw files to read, images in the way that `decode` says; None where a pack is."""
    if spec.images is not None:
        how = {name: decode[key] for name, key in (("size_px", "to_px"), ("recompress", "recompress")) if key in decode}
        values = {"name": "imagefolder", "root": spec.images, "labels": "none", "split": "none", "split_name": "all"}
        return ImageFolderSpec.parse({**values, **how, "suffix_in_id": True})
    return spec.data if spec.pack is None and spec.data.root is not None else None


def run(spec: ScoreSpec, inputs: Inputs, out: Path) -> Metrics:
    """Write scores.parquet and unreadable.csv; return counts."""
    import torch

    from ssl_sat.evaluation.embedding import pack_stream, source_stream
    from ssl_sat.evaluation.packs import choose_device
    from ssl_sat.evaluation.scoring import Scorer, score_stream
    from ssl_sat.progress import counter
    from ssl_sat.provenance import device_facts
    from ssl_sat.stage import record_facts

    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    scorer = Scorer(inputs["evaluation"], inputs["model"].path, spec.by, device)
    source = source_of(spec, scorer.record["decode"])
    record_facts(out, device=device_facts())
    with counter("score", "images", spec.progress) as advance:
        if source is None:
            stream = pack_stream(inputs["data"].path, spec.split, spec.batch_size, advance)
        else:
            stream = source_stream(source, spec.split, spec.batch_size, advance)
        return score_stream(scorer, stream, out)


def evaluation_artifact(lookup: Lookup, value: str) -> Ref:
    """Resolve an evaluation: `latest`, its path, or that of a fine-tuned model, whose newest evaluation is taken."""
    if value == "latest":
        return lookup.artifact("ood_eval", value)
    ref = lookup.planned.get(Path(value)) or Artifact.open(value).ref
    if ref.stage == "ood_eval":
        return ref
    if ref.stage != "finetune":
        raise UserError(f"{value} is an artifact of stage '{ref.stage}'; one of ood_eval or finetune is needed here.")
    found = [a for a in outputs_of("ood_eval", lookup.outputs) if a.record["inputs"].get("model") == ref.fingerprint]
    if not found:
        raise MissingInput(
            f"no evaluation of {value} in {lookup.outputs}, and a threshold comes from one. "
            f"Make it: python -m ssl_sat.ood_eval model={value}"
        )
    print(f"ood_eval: using {shown(found[0].path)}", flush=True)
    return found[0].ref


def _model_of(evaluation: Ref, lookup: Lookup) -> Ref:
    """The model that was evaluated: where it lay then, or else wherever its fingerprint is found."""
    if (evaluation.path / "artifact.json").is_file():
        record = Artifact.open(evaluation.path).record
        path = evaluation.path.parent.parent / record.get("input_paths", {}).get("model", "")
        if (path / "artifact.json").is_file() and Artifact.open(path).fingerprint == record["inputs"]["model"]:
            return Artifact.open(path).ref
    return lookup.input_of(evaluation, "model", "finetune")


def _inputs(spec: ScoreSpec, lookup: Lookup) -> dict[str, Ref]:
    evaluation = evaluation_artifact(lookup, spec.model)
    refs = {"evaluation": evaluation, "model": _model_of(evaluation, lookup)}
    if spec.images is not None and spec.pack is not None:
        raise ConfigError("images and pack are both set; give one of them")
    if source_of(spec, {}) is None:
        refs["data"] = pack_of(spec, lookup, spec.data, spec.pack)
    return refs


def _science(spec: ScoreSpec) -> dict[str, Any]:
    from ssl_sat.data.packing import files_digest, source_digest

    source = source_of(spec, {})
    if source is None:
        return spec.science()
    files = {**source_digest(source), "files_sha256": files_digest(Path(source.root or "").expanduser())}
    version = SOURCES[source.name].version
    return {**spec.science(), "data": source.science(), "source": files, "source_version": version}


def _choices(spec: ScoreSpec, inputs: Mapping[str, Ref]) -> str:
    data = "images" if spec.images else inputs["data"].config["data"]["name"] if "data" in inputs else spec.data.name
    parts = [inputs["model"].choices, "on", data, *([spec.split] if spec.split else [])]
    return "-".join([*parts, *([spec.by] if spec.by else [])])


def _headline(metrics: Metrics) -> list[str]:
    unreadable = f", {metrics['unreadable']} unreadable (unreadable.csv)" if metrics["unreadable"] else ""
    return [
        f"{metrics['n']} images by {metrics['detector']} at alpha = {metrics['alpha']:g}: "
        f"{metrics['accepted']} accepted, {metrics['rejected']} rejected{unreadable}"
    ]


SCORE = Stage(
    "score",
    2,
    ScoreSpec,
    run,
    _choices,
    _inputs,
    _science,
    headline=_headline,
    code=(
        "ssl_sat.evaluation.scoring",
        "ssl_sat.evaluation.embedding",
        "ssl_sat.evaluation.predict",
        "ssl_sat.evaluation.predictions",
        *OOD_CODE,
        *(
            f"ssl_sat.ood.detectors.{name}"
            for name in ("logits", "sampled", "mahalanobis", "density", "knn", "vim", "fdbd", "shaping")
        ),
        "ssl_sat.data.packed",
        *augment.CODE,
    ),
)


def task(spec: ScoreSpec) -> None:
    """Make or find the artifact; put a copy where `to` says."""
    artifact = execute(SCORE, spec)
    if spec.to is not None:
        from ssl_sat.evaluation.scoring import deliver

        for path in deliver(artifact.path, Path(spec.to).expanduser()):
            print(f"  {path}", flush=True)


if __name__ == "__main__":
    from ssl_sat import config

    config.run("score", ScoreSpec, task)
