"""Checkpoints of timm, torchvision, torchgeo and SSL4EO-S12 in our encoders: names translated, all accounted for.

Where names come from: MoCo v2 keeps the encoder under `module.encoder_q.`, MoCo v3 under `module.base_encoder.`, DINO
under `backbone.` (student: `module.backbone.`), DistributedDataParallel under `module.`, all with torchvision's names
of a ResNet (timm's are the same but for the classifier) or timm's of a ViT (SSL4EO-S12, src/benchmark/pretrain_ssl and
transfer_classification); torchgeo's are timm's (torchgeo.models). torchvision's ViT has names of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_sat.bands import AERIAL_RGB, S2_L1C, S2_L2A, band
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.checkpoint_file import read_state
from ssl_sat.encoders.contract import Encoder
from ssl_sat.encoders.stem import How, map_bands, stem_keys
from ssl_sat.encoders.weights import digest
from ssl_sat.spec import ConfigError, Spec

# In order of preference where two hold equally many of the encoder's weights; a momentum copy is never taken.
PREFIXES = (
    "", "module.", "model.", "backbone.", "module.backbone.", "encoder.", "module.encoder.", "module.encoder_q.",
    "encoder_q.", "module.base_encoder.", "base_encoder.", "trunk.", "encoder.trunk.", "_orig_mod.", "module.model.",
)  # fmt: skip
# Beside the encoder in the same network: classifiers, auxiliary ones too, projection heads, MAE's decoder.
HEADS = re.compile(
    r"(fc|heads?|head_dist|classifier|last_linear|pre_logits|aux\d|AuxLogits|mask_token|decoder\w*)(\.|$)"
)
_TORCHVISION_VIT = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
)


@dataclass(frozen=True)
class Imported:
    """What became of a file: for the user's one line, the card and the provenance."""

    file: str
    sha256: str
    found: int
    expected: int
    prefix: str
    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    resized: tuple[str, ...]
    bands: tuple[str, ...]
    how: str
    card: Mapping[str, Any]

    @property
    def line(self) -> str:
        """One line: matched, missing, left out, resized, bands."""
        under = f" under '{self.prefix}'" if self.prefix else ""
        parts = [f"{self.found} of {self.expected} weights found{under}", f"{len(self.missing)} missing"]
        parts.append(f"{len(self.left_out)} left out{_shown(self.left_out)}")
        if self.resized:
            parts.append(f"resampled: {', '.join(self.resized)}")
        parts.append(f"stem of {_bands(self.bands)} {self.how}")
        return f"weights: {self.file} (sha256 {self.sha256[:8]}): " + "; ".join(parts)


def load_foreign(
    spec: Spec,
    file: Path,
    *,
    bands: tuple[str, ...],
    image_size: int,
    seed: int,
    how: How = "by_name",
    bands_from: Sequence[str] | None = None,
    strict: bool = True,
) -> tuple[Encoder, Imported]:
    """Build the encoder of `spec` with the weights in `file`, its stem moved to `bands` as `how` says.

    bands_from: what the file's channels are; None: by count, see `known_bands`. Every weight of the encoder must be
    there with its shape, and nothing else but heads and networks beside the encoder, or ConfigError tells what is not
    so; position embeddings and patch filters of a ViT are resampled to the grid (Dosovitskiy et al. 2021, section
    3.2; Beyer et al. 2023). Not strict: what the file lacks keeps its fresh weights.
    """
    state, card = read_state(file)
    encoder: Encoder = ENCODERS.build(spec, bands=bands, image_size=image_size, seed=seed)
    fresh = encoder.state_dict()
    keys = {name.removeprefix("trunk."): name for name in fresh}
    named, prefix, beside = _named(state, keys)
    missing = tuple(name for name in keys if name not in named and not name.endswith("num_batches_tracked"))
    others = [name for name in named if name not in keys]
    left_out = tuple([*beside, *(name for name in others if HEADS.match(name))])
    _check_names(spec, file, state, keys, missing, [n for n in others if not HEADS.match(n)], strict)
    stem = [name.removeprefix("trunk.") for name in stem_keys(encoder)]
    own_bands = card.get("bands") if bands_from is None else bands_from
    source = known_bands(named[stem[0]], own_bands, file) if stem[0] in named else tuple(bands)
    fitted, resized = _fitted(encoder, named, keys, fresh, stem)
    _check_shapes(spec, file, fitted, keys, fresh, stem)
    if source != tuple(bands):
        fitted = map_bands(fitted, [name for name in stem if name in fitted], source, bands, how, seed)
    encoder.load_state_dict({**fresh, **{keys[name]: value for name, value in fitted.items()}})
    found = sum(name in named for name in keys)
    moved = "as it is" if source == tuple(bands) else f"moved to {_bands(bands)} {how}"
    facts = (found, len(keys) - sum(n.endswith("num_batches_tracked") and n not in named for n in keys))
    return encoder, Imported(
        file.name, digest(file), *facts, prefix, missing, left_out, tuple(resized), source, moved, card
    )


def known_bands(stem: Tensor, stated: Sequence[str] | None, file: Path) -> tuple[str, ...]:
    """What the channels of the first filters are, in their order; ConfigError where that has to be stated."""
    channels = stem.shape[1]
    if stated is None:
        known = {len(S2_L1C): S2_L1C, len(AERIAL_RGB): AERIAL_RGB}
        if channels in known:
            return known[channels]
        example = f", as in init_bands=[{','.join(S2_L2A)}]" if channels == len(S2_L2A) else ""
        raise ConfigError(f"init={file}: its first filters read {channels} channels; say which{example}.")
    for name in stated:
        band(name)
    if len(stated) != channels:
        raise ConfigError(f"init={file}: its first filters read {channels} channels; init_bands names {len(stated)}.")
    return tuple(stated)


def _named(state: Mapping[str, Tensor], keys: Mapping[str, str]) -> tuple[dict[str, Tensor], str, list[str]]:
    """The encoder's part of a checkpoint by our names, the prefix it stood under, and the names beside it."""
    vit = next((name for name in state if name.endswith("conv_proj.weight")), None)
    prefix = vit.removesuffix("conv_proj.weight") if vit else _prefix(state, keys)
    named = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    beside = [name for name in state if not name.startswith(prefix)]
    return ({_timm_vit(name): value for name, value in named.items()} if vit else named), prefix, beside


def _prefix(state: Mapping[str, Tensor], keys: Mapping[str, str]) -> str:
    """The prefix under which most of the encoder's weights are."""
    return max(PREFIXES, key=lambda prefix: sum(f"{prefix}{name}" in state for name in keys))


def _timm_vit(name: str) -> str:
    for pattern, replacement in _TORCHVISION_VIT:
        name = re.sub(pattern, replacement, name)
    return name


def _check_names(
    spec: Any, file: Path, state: Mapping[str, Tensor], keys: Mapping[str, str], missing: Sequence[str],
    unknown: Sequence[str], strict: bool,
) -> None:  # fmt: skip
    if len(missing) == len(keys) or (strict and (missing or unknown)):
        model = getattr(spec, "model", spec.name)
        raise ConfigError(
            f"init={file}: these are not the weights of encoder '{model}': {len(missing)} of its {len(keys)} are "
            f"missing{_shown(missing)}, {len(unknown)} are not its own{_shown(unknown)}. The file holds "
            f"{len(state)}{_shown(list(state))}. Choose the encoder that they are of, or init_strict=false."
        )


def _fitted(
    encoder: Any, named: Mapping[str, Tensor], keys: Mapping[str, str], fresh: Mapping[str, Tensor], stem: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that the encoder takes, a ViT's positions and patch filters resampled, and what was resampled."""
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    fitted = {name: named[name] for name in keys if name in named}
    trunk, resized = getattr(encoder, "trunk", None), []
    for name, value in list(fitted.items()):
        wanted = fresh[keys[name]]
        if name == "pos_embed" and value.ndim == 3 and value.shape[1] != wanted.shape[1]:
            tokens = 0 if getattr(trunk, "no_embed_class", False) else getattr(trunk, "num_prefix_tokens", 1)
            grid = [round((wanted.shape[1] - tokens) ** 0.5)] * 2
            fitted[name] = resample_abs_pos_embed(value.float(), grid, num_prefix_tokens=tokens)
            resized.append(f"{name} {value.shape[1]} to {wanted.shape[1]} tokens")
        elif name == "patch_embed.proj.weight" and name in stem and value.shape[2:] != wanted.shape[2:]:
            fitted[name] = resample_patch_embed(value.float(), list(wanted.shape[2:]))
            resized.append(f"{name} {value.shape[-1]} to {wanted.shape[-1]} px")
    return fitted, resized


def _check_shapes(
    spec: Any, file: Path, fitted: Mapping[str, Tensor], keys: Mapping[str, str], fresh: Mapping[str, Tensor],
    stem: Sequence[str],
) -> None:  # fmt: skip
    wrong = []
    for name, value in fitted.items():
        wanted, got = list(fresh[keys[name]].shape), list(value.shape)
        if name in stem and len(got) == 4:
            wanted[1] = got[1]
        if got != wanted:
            wrong.append(f"{name} {got} instead of {wanted}")
    if wrong:
        model = getattr(spec, "model", spec.name)
        raise ConfigError(
            f"init={file}: {len(wrong)} weights have other shapes than in encoder '{model}'{_shown(wrong)}. Choose "
            "the encoder (encoder.model, encoder.stem, encoder.patch_size) that they are of."
        )


def _shown(names: Sequence[str], count: int = 3) -> str:
    """' (a, b, c, ...)', or nothing where there are none."""
    return f" ({', '.join(names[:count])}{', ...' if len(names) > count else ''})" if names else ""


def _bands(names: Sequence[str]) -> str:
    return ",".join(names) if len(names) <= 4 else f"{len(names)} bands {names[0]}..{names[-1]}"
