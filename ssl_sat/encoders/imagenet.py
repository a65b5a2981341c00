"""ImageNet weights of timm, moved to satellite bands. Weights that cannot be had are an error, never a fall-back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from ssl_sat.bands import AERIAL_RGB
from ssl_sat.encoders.contract import Encoder, seeded
from ssl_sat.encoders.spec import TimmSpec
from ssl_sat.encoders.stem import How, map_bands, stem_keys
from ssl_sat.encoders.timm_encoder import TimmEncoder, create_trunk
from ssl_sat.spec import ConfigError, MissingInput, Spec


def load_imagenet(
    spec: Spec,
    *,
    bands: tuple[str, ...],
    image_size: int,
    seed: int,
    how: How = "by_wavelength",
    file: Path | None = None,
) -> Encoder:
    """Build the encoder with timm's default pretrained weights, its stem moved from RGB to `bands` as `how` says.

    Positions and patch filters of ViTs are resampled by timm to the image and patch size. `file` gives the weights
    (safetensors or torch) where the hub cannot be reached. Inputs stay normalised by our own band statistics.
    Raises ConfigError for an encoder without such weights, MissingInput where they cannot be had.
    """
    if not isinstance(spec, TimmSpec):
        raise ConfigError(
            f"init=imagenet: the encoder '{getattr(spec, 'name', spec)}' has no ImageNet weights; use timm's"
        )
    with seeded(seed):
        source = TimmEncoder(_pretrained(spec, image_size, file), AERIAL_RGB, image_size)
        if tuple(bands) == AERIAL_RGB:
            return source
        encoder = TimmEncoder(create_trunk(spec, len(bands), image_size), bands, image_size)
    encoder.load_state_dict(map_bands(source.state_dict(), stem_keys(source), AERIAL_RGB, bands, how, seed))
    return encoder


def pretrained_name(spec: TimmSpec) -> str:
    """Full name of the weights that timm would load, `model.tag (hub repository)`, for provenance and messages."""
    cfg = timm.get_pretrained_cfg(spec.model) if timm.is_model(spec.model) else None
    if cfg is None or not (cfg.hf_hub_id or cfg.url or cfg.file):
        raise ConfigError(f"init=imagenet: timm has no pretrained weights for '{spec.model}'")
    if not cfg.hf_hub_id:
        return f"{spec.model}.{cfg.tag} ({cfg.url})"
    hub = cfg.hf_hub_id if cfg.hf_hub_id != "timm/" else f"timm/{spec.model}.{cfg.tag}"
    return f"{spec.model}.{cfg.tag} ({hub})"


def _pretrained(spec: TimmSpec, image_size: int, file: Path | None) -> Any:
    if spec.stem != "default":
        raise ConfigError("init=imagenet needs encoder.stem=default: the pretrained filters are those of that stem")
    wanted = pretrained_name(spec)
    options: dict[str, Any] = {"pretrained": True}
    if file is not None:
        if not Path(file).is_file():
            raise MissingInput(f"no file {file} with the weights {wanted}")
        options["pretrained_cfg_overlay"] = {"file": str(file)}
    try:
        return create_trunk(spec, 3, image_size, **options)
    except ConfigError:
        raise
    except Exception as error:  # the hub's own errors have no common base; all mean that the weights are not here
        reason = str(error).strip().splitlines()
        raise MissingInput(
            f"init=imagenet: the weights {wanted} could not be loaded: {reason[0] if reason else repr(error)}. "
            f"They were looked for in the Hugging Face cache (HF_HOME) and on the hub. On a machine with a network run "
            f"python -c \"import timm; timm.create_model('{spec.model}', pretrained=True)\" and copy its HF_HOME here, "
            f"or choose init=scratch."
        ) from error
