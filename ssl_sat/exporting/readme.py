"""The card of an export as a page for people."""

from __future__ import annotations

from typing import Any

_UNITS = {
    "reflectance": "reflectance (0 to 1 and above)",
    "display": "display values (8-bit image / 255)",
    "float": "values as they came, float32",
}
_NO_LICENCE = (
    "None is stated for these weights. The licence of the code does not cover them; the terms of the training data, "
    "and of weights of others they started from, do apply."
)


def readme(card: dict[str, Any]) -> str:
    """Return the README.md of an exported encoder."""
    demo = "\n**Demonstration: synthetic data went into these weights.**\n" if card["synthetic"] else ""
    return f"""# {card["model"]}

An encoder of satellite images: {len(card["bands"])} bands in, {card["features"]} features out.
{demo}
## Input

Images of {card["image_size"]} x {card["image_size"]} px{_gsd(card)}; larger patches by {_framing(card["framing"])}.
Values: {_UNITS[card["normalisation"]["unit"]]}. Statistics: {card["normalisation"]["origin"]}.
x = (value - mean) / std, channels in this order:

| channel | band | mean | std |
|---|---|---|---|
{_bands(card)}

The graphs (ONNX, torch.export) take {_takes(card)}.

## Files

Features of each file were compared with those of the encoder on random images when it was written.

| file | how to use it | largest relative difference |
|---|---|---|
{_files(card)}

## Origin

Trained by: {card["method"]}. Started from: {card["initialisation"]}. Data: {"; ".join(card["trained_on"])}.
Fingerprint `{card["fingerprint"]}`. Code: commit `{card["provenance"]["git"] or "not known"}`. More in card.json.

## Licence

{card["licence"] or _NO_LICENCE}
"""


def _gsd(card: dict[str, Any]) -> str:
    return f" at {card['gsd_m']:g} m" if card["gsd_m"] else ""


def _framing(framing: str) -> str:
    return "their centre" if framing == "crop" else "antialiased resizing"


def _bands(card: dict[str, Any]) -> str:
    mean, std = card["normalisation"]["mean"], card["normalisation"]["std"]
    return "\n".join(f"| {k} | {name} | {mean[name]:.6g} | {std[name]:.6g} |" for k, name in enumerate(card["bands"]))


def _takes(card: dict[str, Any]) -> str:
    graph = card["graph_input"]
    return {
        "normalised": "normalised images x",
        "value": "values; the normalisation is inside",
        "dn": f"digital numbers, value = (dn - {graph['offset']:g}) / {graph['scale']:g}; the normalisation is inside",
    }[graph["takes"]]


def _files(card: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in (card["timm"] or {}).items())
    use = {
        "timm": f"`m = timm.create_model({arguments})`, `m.load_state_dict(safetensors.torch.load_file(...))`, m(x)",
        "safetensors": "`ssl_sat.training.model_io.load_encoder(<this folder>)`, with model.json",
        "onnx": "`onnxruntime.InferenceSession(...).run(None, {'images': ...})`",
        "torch_export": "`torch.export.load(...).module()(images)`",
    }
    rows = [f"| {f['file']} | {use[name]} | {f['relative_difference']:.1e} |" for name, f in card["files"].items()]
    return "\n".join(rows)
