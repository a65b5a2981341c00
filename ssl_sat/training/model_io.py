"""Weights with the card that says what they expect: builder, bands, units, normalisation, origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ssl_sat.artifact import unchanged, write_json
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.spec import MissingInput, Spec, UserError
from ssl_sat.training.classifier import Classifier


class Normalisation(Spec):
    """x = (value - mean) / std per band; unit says what the value is."""

    unit: Literal["reflectance", "display", "float"]
    mean: dict[str, float]
    std: dict[str, float]
    origin: str

    def of(self, bands: tuple[str, ...]) -> tuple[list[float], list[float]]:
        """Mean and standard deviation in the order of the bands."""
        return [self.mean[name] for name in bands], [self.std[name] for name in bands]


class ModelCard(Spec):
    """What `model.json` holds; enough to build the network and to feed it."""

    format: Literal["ssl_sat.model/1"] = "ssl_sat.model/1"
    encoder: dict[str, Any]
    bands: tuple[str, ...]
    image_size: int
    gsd_m: float | None  # ground sampling distance that the encoder sees, after crop and resize
    framing: Literal["crop", "resize"]  # how a patch larger than image_size is brought to it
    normalisation: Normalisation
    initialisation: str
    trained_on: list[str]
    classes: list[str] | None = None
    task: Literal["multiclass", "multilabel"] = "multiclass"  # softmax over the classes, or a sigmoid for each
    head: dict[str, Any] | None = None
    weights: dict[str, Any] | None = None  # of others, where the encoder once started from such: file, sha256, bands


def build_encoder(card: ModelCard, seed: int = 0) -> nn.Module:
    """Build the card's encoder with fresh weights."""
    spec = ENCODERS.parse(card.encoder)
    return ENCODERS.build(spec, bands=card.bands, image_size=card.image_size, seed=seed)


def build_classifier(card: ModelCard, seed: int = 0) -> Classifier:
    """Build the card's encoder and head with fresh weights."""
    return with_head(build_encoder(card, seed), card, seed)


def with_head(encoder: Any, card: ModelCard, seed: int) -> Classifier:
    """Put the card's head, with fresh weights, on an encoder."""
    head: dict[str, Any] = card.head or {}
    return Classifier(encoder, ClassifierHead(encoder.embed_dim, len(card.classes or ()), seed=seed, **head))


def save_model(out: Path, model: nn.Module, card: ModelCard) -> None:
    """Write `model.safetensors` and `model.json`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, out / "model.safetensors")
    write_json(out / "model.json", card.model_dump(mode="json"), sort=False)


def save_head(out: Path, method: Any) -> None:
    """Write all of a method but its encoder to `projection_head.safetensors`, for whoever continues the pretraining."""
    rest = {name: t for name, t in method.state_dict().items() if not name.startswith("encoder.")}
    save_file({name: t.detach().cpu().contiguous() for name, t in rest.items()}, out / "projection_head.safetensors")


def load_card(folder: Path) -> ModelCard:
    """Read `model.json`; MissingInput if the artifact holds no model, UserError if another card lies in its place."""
    if not (folder / "model.json").is_file():
        raise MissingInput(f"{folder} holds no model (no model.json). Give an artifact of pretrain or finetune.")
    return ModelCard.model_validate_json(_published(folder, "model.json").read_text())


def load_encoder(folder: Path) -> tuple[nn.Module, ModelCard]:
    """Load the encoder of a pretrain or finetune artifact, with its card."""
    card = load_card(folder)
    encoder = build_encoder(card)
    state = load_file(_published(folder, "model.safetensors"))
    if card.classes is not None:
        state = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    _load(encoder, state, folder)
    return encoder, card


def load_classifier(folder: Path) -> tuple[Classifier, ModelCard]:
    """Load a fine-tuned classifier in eval mode, with its card."""
    card = load_card(folder)
    if card.classes is None:
        raise UserError(
            f"{folder} holds an encoder without a classifier. Fine-tune it: python -m ssl_sat.finetune init={folder}"
        )
    model = build_classifier(card)
    _load(model, load_file(_published(folder, "model.safetensors")), folder)
    return model.eval(), card


def _published(folder: Path, name: str) -> Path:
    """A file of an artifact as it was published, or of an export, which keeps no list of its files."""
    return unchanged(folder, name) if (folder / "artifact.json").is_file() else folder / name


def _load(model: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"the weights in {folder} do not fit their own model.json: {error}") from None
