"""ImageNet weights of timm, moved to satellite bands. Weights that cannot be had are an error, never a fall-back."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import timm
import torch

from ssl_sat.bands import AERIAL_RGB
from ssl_sat.encoders.checkpoint_file import read_state
from ssl_sat.encoders.contract import Encoder, seeded
from ssl_sat.encoders.foreign import load_foreign
from ssl_sat.encoders.spec import GoogLeNetSpec, TimmSpec
from ssl_sat.encoders.stem import How, map_bands, stem_keys
from ssl_sat.encoders.timm_encoder import TimmEncoder, create_trunk
from ssl_sat.spec import ConfigError, Spec, WeightsAbsent

_PATIENCE_S = 3.0  # for the hub's first word; its own client would try again for a minute
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


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
    Raises ConfigError for an encoder without such weights, WeightsAbsent where they cannot be had.
    """
    check_imagenet(spec)
    file = file or published_file(spec)
    if file is not None:
        context = {"bands": bands, "image_size": image_size, "seed": seed, "how": how, "bands_from": AERIAL_RGB}
        return load_foreign(spec, file, **context)[0]  # type: ignore[arg-type]
    spec = require_timm(spec)
    with seeded(seed):
        source = TimmEncoder(_from_hub(spec, image_size), AERIAL_RGB, image_size)
        if tuple(bands) == AERIAL_RGB:
            return source
        encoder = TimmEncoder(create_trunk(spec, len(bands), image_size), bands, image_size)
    encoder.load_state_dict(map_bands(source.state_dict(), stem_keys(source), AERIAL_RGB, bands, how, seed))
    return encoder


def published_file(spec: Spec) -> Path | None:
    """The file of ImageNet weights that torch's hub keeps, for an encoder of torchvision's; None for one of timm's.

    Raises WeightsAbsent where it is not there.
    """
    if not isinstance(spec, GoogLeNetSpec):
        return None
    from torchvision.models import GoogLeNet_Weights

    url = GoogLeNet_Weights.DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        raise WeightsAbsent(
            f"init=imagenet: weights absent: no {file} (TORCH_HOME). Fetch {url} on a machine with a network, and give "
            "the file with weights=<file>; or choose init=scratch."
        )
    return file


def check_imagenet(spec: Spec) -> None:
    """ConfigError for an encoder of which there are no ImageNet weights anywhere."""
    if not isinstance(spec, GoogLeNetSpec):
        require_timm(spec)


def require_timm(spec: Spec) -> TimmSpec:
    """Return the spec of a timm model with its own stem; ConfigError for another encoder."""
    if not isinstance(spec, TimmSpec):
        raise ConfigError(
            f"init=imagenet: the encoder '{getattr(spec, 'name', spec)}' has no ImageNet weights; use timm's"
        )
    if spec.stem != "default":
        raise ConfigError("init=imagenet needs encoder.stem=default: the pretrained filters are those of that stem")
    return spec


def pretrained_name(spec: TimmSpec) -> str:
    """Full name of the weights that timm would load, `model.tag (hub repository)`, for provenance and messages."""
    cfg = _config(spec)
    return f"{spec.model}.{cfg.tag} ({_repository(spec, cfg) or cfg.url})"


def _config(spec: TimmSpec) -> Any:
    cfg = timm.get_pretrained_cfg(spec.model) if timm.is_model(spec.model) else None
    if cfg is None or not (cfg.hf_hub_id or cfg.url or cfg.file):
        raise ConfigError(f"init=imagenet: timm has no pretrained weights for '{spec.model}'")
    return cfg


def _repository(spec: TimmSpec, cfg: Any) -> str | None:
    if not cfg.hf_hub_id:
        return None
    return cfg.hf_hub_id if cfg.hf_hub_id != "timm/" else f"timm/{spec.model}.{cfg.tag}"


def _from_hub(spec: TimmSpec, image_size: int) -> Any:
    """The pretrained model: from the cache, or fetched where the hub answers at once."""
    wanted, repository = pretrained_name(spec), _repository(spec, _config(spec))
    cached = _cached(repository, _config(spec)) if repository else None
    if cached is not None:
        read_state(cached)  # refuses a pickle that names more than tensors, whatever timm's own loader would do
        return create_trunk(spec, 3, image_size, pretrained=True, pretrained_cfg_overlay={"file": str(cached)})
    reason = _out_of_reach()
    if reason is None:
        try:
            return create_trunk(spec, 3, image_size, pretrained=True)
        except ConfigError:
            raise
        except Exception as error:  # the hub's own errors have no common base; all mean that the weights are not here
            reason = (str(error).strip().splitlines() or [repr(error)])[0]
    from huggingface_hub import constants

    raise WeightsAbsent(
        f"init=imagenet: weights absent: {wanted} could not be loaded: {_HUB_FILES[0]} is not in the Hugging Face "
        f"cache {constants.HF_HUB_CACHE} (HF_HOME), and {reason}. Give the file with weights=<file>; or on a machine "
        f"with a network run python -c \"import timm; timm.create_model('{spec.model}', pretrained=True)\" and copy "
        f"its HF_HOME here; or choose init=scratch."
    )


def _cached(repository: str, cfg: Any) -> Path | None:
    """The weights in the hub's cache, found without asking the hub."""
    from huggingface_hub import constants, try_to_load_from_cache

    names = (cfg.hf_hub_filename,) if getattr(cfg, "hf_hub_filename", None) else _HUB_FILES
    for name in names:
        found = try_to_load_from_cache(repository, name, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(found, str):
            return Path(found)
    return None


def _out_of_reach() -> str | None:
    """Why the hub cannot be asked, None when it answers. Name lookup has no time limit of its own: hence the thread."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=_PATIENCE_S).close()
            answers.append(None)
        except urllib.error.HTTPError:
            answers.append(None)  # an answer, if not the wanted one
        except Exception as error:  # whatever it is, there is no hub
            answers.append(f"{constants.ENDPOINT} cannot be reached ({error})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S + 0.5)
    return answers[0] if answers else f"{constants.ENDPOINT} does not answer within {_PATIENCE_S:.0f} s"
