"""What pretraining and fine-tuning set up alike: rows, starting weights, bands, normalisation, views."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ssl_sat import bands as band_names
from ssl_sat.artifact import Artifact
from ssl_sat.augment.geometric import gsd_out
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.data.held_out import PackWithout
from ssl_sat.data.packed import Pack
from ssl_sat.encoders import ENCODERS, weights
from ssl_sat.encoders.sizes import check_image_size, own_image_size
from ssl_sat.encoders.stem import map_bands, stem_keys
from ssl_sat.stage import record_facts
from ssl_sat.training.imported import imported_encoder
from ssl_sat.training.model_io import ModelCard, Normalisation, build_encoder, load_card, load_encoder
from ssl_sat.training.normalisation import of_artifact, of_new
from ssl_sat.training.spec import TrainerSpec


def rows_of(pack: Pack, split: str) -> np.ndarray:
    """Rows of a split; 'all' takes every patch, but for those of held-out classes."""
    if split != "all":
        return pack.rows(split)
    rows = np.arange(len(pack))
    return np.setdiff1d(rows, pack.held_out_rows(None)) if isinstance(pack, PackWithout) else rows


def unit_of(pack: Pack) -> str:
    """What a pack's values are once scaled: 'reflectance', 'display' or 'float'."""
    if pack.manifest.level == "display":
        return "display"
    return "float" if pack.manifest.dtype == "float32" else "reflectance"


def normalisation_of(pack: Pack, bands: tuple[str, ...]) -> Normalisation:
    """Mean and standard deviation of a pack's training split; a band without any variation is only centred."""
    stats = [pack.stats[pack.bands[at]] for at in band_names.positions(bands, pack.bands)]
    return Normalisation(
        unit=unit_of(pack),  # type: ignore[arg-type]
        mean={name: s.mean for name, s in zip(bands, stats, strict=True)},
        std={name: s.std if s.std > 0 else 1.0 for name, s in zip(bands, stats, strict=True)},
        origin=f"{pack.stats.split} split of {pack.manifest.source}",
    )


def starting_encoder(spec: Any, pack: Pack, inputs: Mapping[str, Artifact]) -> tuple[nn.Module, ModelCard]:
    """Return the encoder a stage starts from, with its card: fresh, ImageNet, or an artifact's.

    An artifact keeps its bands as far as the pack has them, and its statistics as long as the unit is the same;
    where the pack has other bands or another unit the stem is mapped and the pack's statistics are taken.
    `spec.normalisation`, where the stage has it, chooses between the two (`ssl_sat.training.normalisation`).
    """
    if "init" not in inputs:
        return _new_encoder(spec, pack)
    encoder, card = load_encoder(inputs["init"].path)
    wanted = spec.bands or shared_bands(card.bands, pack.bands)
    image_size = getattr(spec, "image_size", None) or card.image_size
    normalisation = of_artifact(_wanted(spec), card, normalisation_of(pack, wanted), wanted)
    new = card.model_copy(
        update={
            "bands": wanted,
            "image_size": image_size,
            "gsd_m": seen_gsd_m(pack, image_size, spec.augment.eval),
            "framing": spec.augment.eval,
            "normalisation": normalisation,
            "trained_on": [*card.trained_on, _label(pack)],
            "initialisation": f"{inputs['init'].stage} {inputs['init'].fingerprint[:8]} ({card.initialisation})",
        }
    )
    if wanted == card.bands and image_size == card.image_size:
        return encoder, new
    return _moved(encoder, card, new, spec), new


def _moved(encoder: Any, card: ModelCard, new: ModelCard, spec: Any) -> nn.Module:
    """The encoder's weights in a network for other bands or another image size."""
    check_image_size(ENCODERS.parse(new.encoder), new.image_size)
    fresh: Any = build_encoder(new, spec.seed)
    state = map_bands(encoder.state_dict(), stem_keys(encoder), card.bands, new.bands, spec.stem, spec.seed)
    for name, value in fresh.state_dict().items():
        if name.endswith("pos_embed") and state[name].shape != value.shape:
            state[name] = _resized_positions(state[name], value, fresh.trunk)
    fresh.load_state_dict(state)
    return fresh


def _resized_positions(old: torch.Tensor, new: torch.Tensor, trunk: Any) -> torch.Tensor:
    """Position tokens of a ViT, interpolated to another grid (Dosovitskiy et al. 2021, section 3.2)."""
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if getattr(trunk, "no_embed_class", False) else trunk.num_prefix_tokens
    side = round((new.shape[1] - prefix) ** 0.5)
    return resample_abs_pos_embed(old, [side, side], num_prefix_tokens=prefix)


def _new_encoder(spec: Any, pack: Pack) -> tuple[nn.Module, ModelCard]:
    bands = spec.bands or pack.bands
    image_size = spec.image_size or own_image_size(spec.encoder)
    check_image_size(spec.encoder, image_size)
    card = ModelCard(
        encoder=spec.encoder.model_dump(mode="json"),
        bands=bands,
        image_size=image_size,
        gsd_m=seen_gsd_m(pack, image_size, spec.augment.eval),
        framing=spec.augment.eval,
        normalisation=normalisation_of(pack, bands),
        initialisation=spec.init,
        trained_on=[_label(pack)],
    )
    if spec.init != "scratch":
        encoder, imported = imported_encoder(spec, card)
        return encoder, of_new(_wanted(spec), spec, imported, card.normalisation)
    card = of_new(_wanted(spec), spec, card, card.normalisation)
    return ENCODERS.build(spec.encoder, bands=bands, image_size=image_size, seed=spec.seed), card


def seen_gsd_m(pack: Pack, image_size: int, framing: Literal["crop", "resize"]) -> float | None:
    """Ground sampling distance in metres that an encoder sees; None where the pack's is not known."""
    if pack.manifest.gsd_m is None:
        return None
    height, width = max((group.height, group.width) for group in pack.groups)
    return gsd_out(pack.manifest.gsd_m, height, width, image_size, framing)


def shared_bands(of_encoder: tuple[str, ...], present: tuple[str, ...]) -> tuple[str, ...]:
    """The encoder's bands that the data has, in the encoder's order; all of the data's bands when none is shared."""
    shared = tuple(name for name in of_encoder if band_names.find(name, present) is not None)
    return shared or present


def _wanted(spec: Any) -> str:
    return str(getattr(spec, "normalisation", "auto"))


def initialisation(spec: Any, inputs: Mapping[str, Artifact]) -> str:
    """'scratch', 'imagenet', a file by its digest, or the starting artifact: method, data, its own start in turn."""
    if "init" not in inputs:
        named = weights.label(spec)
        return f"imagenet, {named}" if spec.init == "imagenet" != named else named
    config = inputs["init"].config
    start = config["init"] if config["init"] in weights.NAMED else load_card(inputs["init"].path).initialisation
    return f"{config['method']['name']} on {config['data']['name']}, {config['epochs']} epochs, from {start}"


def _label(pack: Pack) -> str:
    kind = "synthetic " if pack.manifest.synthetic else ""
    without = f", without {'+'.join(pack.held_out)}" if isinstance(pack, PackWithout) else ""
    return f"{kind}{pack.manifest.source} ({pack.manifest.level}, {len(pack)} patches{without})"


def views(spec: AugmentSpec, pack: Pack, card: ModelCard, seed: int, num_views: int = 1) -> Views:
    """Views of a pack's patches as the encoder of `card` wants them."""
    mean, std = card.normalisation.of(card.bands)
    return Views(
        spec,
        layout=[(tuple(group.bands), group.height, group.width) for group in pack.groups],
        bands=card.bands,
        scale=pack.manifest.scale,
        offset=pack.manifest.offset,
        mean_C=mean,
        std_C=std,
        image_size=card.image_size,
        num_views=num_views,
        seed=seed,
    )


def memory_format(module: nn.Module, spec: TrainerSpec) -> None:
    """Apply channels_last and torch.compile as configured; neither changes names of weights."""
    if spec.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if spec.compile:
        encoder: Any = module.encoder
        encoder.compile()


def record_inputs(out: Path, card: ModelCard, packs: Mapping[str, Pack]) -> None:
    """Note initialisation and data digests for the provenance."""
    data = {
        slot: {"source": p.manifest.source, "patches_sha256": p.manifest.patches_sha256} for slot, p in packs.items()
    }
    record_facts(out, initialisation=card.initialisation, weights=card.weights, data=data, gsd_m=card.gsd_m)
