"""One writer and one reader per format; the reader is what another program would do, without our code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_sat.artifact import write_json
from ssl_sat.encoders.checkpoint_file import CARD_KEY
from ssl_sat.encoders.spec import TimmSpec
from ssl_sat.exporting.network import Deployed
from ssl_sat.spec import ConfigError, MissingInput
from ssl_sat.training.model_io import ModelCard

OPSET = 18  # the first with all operators of ViTs at full precision in every runtime of today


class Job(NamedTuple):
    """What the writers share: the encoder with its parsed spec and card, and the graph around it."""

    spec: Any
    encoder: nn.Module
    card: ModelCard
    graph: Deployed


class Written(NamedTuple):
    """A file, and how another program gets features from it; `takes_graph_input` False: normalised images."""

    file: Path
    run: Callable[[Tensor], Tensor]
    takes_graph_input: bool


def timm_call(spec: TimmSpec, card: ModelCard) -> dict[str, Any]:
    """Arguments of timm.create_model that build the same network without us."""
    from ssl_sat.encoders.timm_encoder import creation_options

    return {"model_name": spec.model, **creation_options(spec, len(card.bands), card.image_size)}


def why_not_timm(spec: Any) -> str | None:
    """Why timm alone cannot build the encoder; None where it can."""
    if not isinstance(spec, TimmSpec):
        return f"timm has no encoder '{spec.name}'"
    return "timm cannot build encoder.stem=cifar by itself" if spec.stem != "default" else None


def write_timm(job: Job, folder: Path) -> Written:
    """`timm.safetensors`: the keys of timm.create_model(...), read back strictly into such a model."""
    import timm

    reason = why_not_timm(job.spec)
    if reason:
        raise ConfigError(f"formats=timm: {reason}; leave it out")
    file = folder / "timm.safetensors"
    _save(job.encoder.trunk.state_dict(), file, job.card)  # type: ignore[union-attr, operator]
    model = timm.create_model(**timm_call(job.spec, job.card)).eval()
    model.load_state_dict(load_file(file), strict=True)
    return Written(file, model, takes_graph_input=False)


def write_safetensors(job: Job, folder: Path) -> Written:
    """`model.safetensors` with our keys; beside `model.json` it is a model of ours again."""
    from ssl_sat.training.model_io import build_encoder

    file = folder / "model.safetensors"
    _save(job.encoder.state_dict(), file, job.card)
    write_json(folder / "model.json", job.card.model_dump(mode="json"), sort=False)
    model = build_encoder(job.card, seed=1)
    model.load_state_dict(load_file(file))
    return Written(file, model.eval(), takes_graph_input=False)


def write_onnx(job: Job, folder: Path) -> Written:
    """`model.onnx`: input `images`, output `features`, any batch size; run by ONNX Runtime on the CPU."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter is written in it
    except ImportError as error:
        raise MissingInput(
            f"formats=onnx needs the package {error.name}; pip install 'ssl-sat[export]', or leave it out"
        ) from None
    file = folder / "model.onnx"
    program = torch.onnx.export(
        job.graph, (_example(job),), dynamo=True, opset_version=OPSET, input_names=["images"],
        output_names=["features"], dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return Written(file, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), True)


def write_torch_export(job: Job, folder: Path) -> Written:
    """`model.pt2`: torch.export.load(file).module()(images), any batch size."""
    file = folder / "model.pt2"
    program = torch.export.export(
        job.graph, (_example(job),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    torch.export.save(program, file)
    return Written(file, torch.export.load(file).module(), takes_graph_input=True)


WRITERS: dict[str, Callable[[Job, Path], Written]] = {
    "timm": write_timm,
    "safetensors": write_safetensors,
    "onnx": write_onnx,
    "torch_export": write_torch_export,
}


def _example(job: Job) -> Tensor:
    """Two images: with one, a batch of one would be written into the graph."""
    return torch.zeros(2, len(job.card.bands), job.card.image_size, job.card.image_size)


def _save(state: dict[str, Tensor], file: Path, card: ModelCard) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, file, {CARD_KEY: json.dumps(card.model_dump(mode="json"))})
    file.chmod(0o644)  # safetensors makes files that nobody else can read
