"""The folder of an export: files, checks, card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_sat.artifact import Artifact, sha256_file, sync_folder, write_json
from ssl_sat.encoders import ENCODERS
from ssl_sat.exporting.formats import WRITERS, Job, Written, timm_call, why_not_timm
from ssl_sat.exporting.network import SCALES, Deployed, features, probes
from ssl_sat.exporting.readme import readme
from ssl_sat.spec import UserError
from ssl_sat.training.model_io import load_encoder

TOLERANCE = 1e-5  # largest difference of a feature, relative to the largest feature


def write_folder(spec: Any, model: Artifact, to: Path) -> dict[str, Any]:
    """Write the export of `model` to the new folder `to`; UserError, and no folder, when a check fails."""
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        card = _write(spec, model, partial)
        partial.rename(to)
        sync_folder(to.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return card


def _write(spec: Any, model: Artifact, folder: Path) -> dict[str, Any]:
    encoder, own = load_encoder(model.path)
    own = own.model_copy(update={"classes": None, "head": None})
    encoder.eval()
    scale = spec.scale or SCALES[own.normalisation.unit]
    job = Job(ENCODERS.parse(own.encoder), encoder, own, Deployed(encoder, own, spec.takes, scale, spec.offset).eval())
    taken, read = probes(own, spec.takes, scale, spec.offset)
    expected = features(encoder, read)
    checks = {name: _checked(WRITERS[name](job, folder), taken, read, expected) for name in _formats(spec, job)}
    card = _card(spec, model, job, scale, checks)
    write_json(folder / "card.json", card, sort=False)
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
    return card


def _formats(spec: Any, job: Job) -> Sequence[str]:
    """Those asked for, or all that the encoder has."""
    if spec.formats is not None:
        return list(dict.fromkeys(spec.formats))
    return [name for name in WRITERS if name != "timm" or why_not_timm(job.spec) is None]


def _checked(written: Written, taken: torch.Tensor, read: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    """Compare the file's features with ours for three images and for one; UserError beyond the tolerance."""
    x = taken if written.takes_graph_input else read
    with torch.inference_mode():
        found = written.run(x)
        alone = written.run(x[:1])
    scale = expected.abs().max()
    worst = max(((found - expected).abs().max() / scale).item(), ((alone - expected[:1]).abs().max() / scale).item())
    if not worst <= TOLERANCE:
        raise UserError(
            f"export: {written.file.name} gives other features than the encoder: relative difference {worst:.2e}, "
            f"allowed {TOLERANCE:g}. Nothing was written. Leave this format out, and report the encoder."
        )
    return {
        "file": written.file.name,
        "sha256": sha256_file(written.file),
        "bytes": written.file.stat().st_size,
        "relative_difference": worst,
        "tolerance": TOLERANCE,
        "takes": "graph input" if written.takes_graph_input else "normalised images",
    }


def _card(spec: Any, model: Artifact, job: Job, scale: float, checks: dict[str, Any]) -> dict[str, Any]:
    card, provenance = job.card, model.json("provenance.json")
    return {
        "format": "ssl_sat.export/1",
        "model": f"{model.stage}/{model.path.name}",
        "encoder": card.encoder,
        "features": int(job.encoder.embed_dim),  # type: ignore[arg-type]
        "timm": None if why_not_timm(job.spec) else timm_call(job.spec, card),
        "bands": list(card.bands),
        "image_size": card.image_size,
        "gsd_m": card.gsd_m,
        "framing": card.framing,
        "normalisation": card.normalisation.model_dump(mode="json"),
        "graph_input": {"takes": spec.takes, "scale": scale, "offset": spec.offset},
        "method": model.config.get("method", {}).get("name") if model.stage == "pretrain" else model.stage,
        "initialisation": card.initialisation,
        "weights_of_others": card.weights,
        "trained_on": card.trained_on,
        "synthetic": model.synthetic,
        "fingerprint": model.fingerprint,
        "provenance": {name: provenance.get(name) for name in ("versions", "git", "data", "started")}
        | {"git": (provenance.get("git") or {}).get("commit")},
        "licence": spec.licence,
        "files": checks,
    }
