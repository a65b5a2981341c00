"""Encoders that start from weights of others, with the card that says what they were fed.

Values of a pack are reflectance or display values. Weights of others expect one or the other, with their own shift and
scale; where the pack has the same unit theirs are kept, elsewhere the data's own statistics standardise each band,
which brings both to the same size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_sat import bands as band_names
from ssl_sat.bands import AERIAL_RGB, S2_L1C
from ssl_sat.encoders import weights
from ssl_sat.encoders.foreign import load_foreign
from ssl_sat.encoders.imagenet import check_imagenet, load_imagenet, pretrained_name, published_file
from ssl_sat.ranks import is_main_process
from ssl_sat.training.model_io import ModelCard, Normalisation

# torchvision.transforms' and timm's constants, in display values
IMAGENET_MEAN = {"red": 0.485, "green": 0.456, "blue": 0.406}
IMAGENET_STD = {"red": 0.229, "green": 0.224, "blue": 0.225}


def imported_encoder(spec: Any, card: ModelCard) -> tuple[Any, ModelCard]:
    """Build the card's encoder from `init=<file>` or `init=imagenet`; the card comes back with their origin."""
    file = weights.file_of(spec)
    if spec.init == "imagenet":
        check_imagenet(spec.encoder)
        file = file or published_file(spec.encoder)
    where = {"bands": card.bands, "image_size": card.image_size, "seed": spec.seed, "how": spec.stem}
    if file is None:
        encoder: Any = load_imagenet(spec.encoder, **where)
        facts = {"file": None, "sha256": None, "origin": pretrained_name(spec.encoder), "bands": list(AERIAL_RGB)}
        normalisation = normalised_for(spec.init_units or "standardised", card)
    else:
        stated = spec.init_bands or (AERIAL_RGB if spec.init == "imagenet" else None)
        encoder, found = load_foreign(spec.encoder, file, **where, bands_from=stated, strict=spec.init_strict)
        facts = {"file": found.file, "sha256": found.sha256, "origin": found.line, "bands": list(found.bands)}
        facts |= {"missing": list(found.missing), "resampled": list(found.resized)}
        units = spec.init_units or ("reflectance" if found.bands == S2_L1C and not found.card else "standardised")
        held = _exported(found.card, card) if spec.init_units is None else None
        normalisation = held or normalised_for(units, card)
        if is_main_process():
            print(f"{found.line}; input: {normalisation.origin}", flush=True)
    return encoder, card.model_copy(
        update={
            "normalisation": normalisation,
            "weights": {**facts, "normalisation": normalisation.origin},
            "initialisation": spec.init if file is None else _origin(spec, file, facts["sha256"]),
        }
    )


def _origin(spec: Any, file: Path, sha256: Any) -> str:
    """ImageNet's weights stay ImageNet's, whatever file they come from."""
    return f"{'imagenet: ' if spec.init == 'imagenet' else ''}{file.name} (sha256 {sha256})"


def normalised_for(units: str, card: ModelCard) -> Normalisation:
    """How the bands of `card` are normalised for weights that were fed `units`; the card's own statistics otherwise."""
    own, names = card.normalisation, card.bands
    if units == own.unit:  # reflectance or display values as they are
        return _constant(own, dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0), f"{units} as it is")
    common = [band_names.band(name).common_name for name in names]
    if units == "imagenet" and own.unit == "display" and set(common) <= set(IMAGENET_MEAN):
        mean = {name: IMAGENET_MEAN[c] for name, c in zip(names, common, strict=True)}
        std = {name: IMAGENET_STD[c] for name, c in zip(names, common, strict=True)}
        return _constant(own, mean, std, "ImageNet's mean and deviation")
    return own


def _constant(own: Normalisation, mean: dict[str, float], std: dict[str, float], origin: str) -> Normalisation:
    return Normalisation(unit=own.unit, mean=mean, std=std, origin=origin)


def _exported(held: Any, card: ModelCard) -> Normalisation | None:
    """The normalisation in one of our own exports, where it is of this unit and covers these bands."""
    if not held:
        return None
    there = Normalisation.model_validate(held["normalisation"])
    return there if there.unit == card.normalisation.unit and set(card.bands) <= set(there.mean) else None
