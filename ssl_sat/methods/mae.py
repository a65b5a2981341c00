"""Masked autoencoder (He et al. 2022): a ViT sees a quarter of the tokens, a small decoder draws the others.

All bands of a token are masked together, and drawn. Which tokens are masked follows from (seed, epoch, sample), not
from batch or rank. Position tokens of the encoder are its own and learn (theirs: fixed sines and cosines), so that any
starting weights can be gone on with; the decoder's are fixed, as theirs. The class token passes the encoder and is seen
by the decoder, but no pixel hangs on it directly.

Legend: N patches, C bands, L tokens of an image, M of them masked, P numbers in a token's pixels, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from lightly.models import utils as tokens
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from timm.models import VisionTransformer
from torch import Tensor, nn

from ssl_sat.augment.draws import Draws
from ssl_sat.encoders.contract import seeded
from ssl_sat.methods.contract import Method
from ssl_sat.methods.spec import MAESpec
from ssl_sat.spec import ConfigError

TRAINED = ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "blocks", "norm")  # parts that embed uses


class MAE(Method):
    """Mean squared error over the pixels of masked tokens; 1 is what a decoder gets that knows nothing.

    With `normalise`, each token's pixels are brought to mean 0 and variance 1 over all bands (their section 4.1).
    """

    num_views = 1
    reconstructs = True

    def __init__(self, spec: MAESpec, encoder: nn.Module, seed: int) -> None:
        super().__init__()
        trunk = plain_vit(encoder)
        self.encoder, self.mask_ratio, self.normalise = encoder, spec.mask_ratio, spec.normalise
        self.patch, self.prefix = int(trunk.patch_embed.patch_size[0]), int(trunk.num_prefix_tokens)
        self.length = int(trunk.patch_embed.num_patches)
        numbers = self.patch**2 * int(trunk.patch_embed.proj.in_channels)  # type: ignore[arg-type]
        with seeded(seed):
            self.bridge = nn.Linear(trunk.embed_dim, spec.decoder_width)
            self.decoder = MaskedVisionTransformerDecoderTIMM(
                self.length, spec.decoder_width, spec.decoder_depth, spec.decoder_heads, num_prefix_tokens=self.prefix
            )
            self.pixels = nn.Linear(spec.decoder_width, numbers)
        unused = nn.Parameter(torch.empty(0), requires_grad=False)  # masked tokens are left out, not replaced
        masked = MaskedVisionTransformerTIMM(
            trunk, unused, weight_initialization="skip", pos_embed_initialization="skip"
        )
        self._masked = [masked]  # in a list: registered, it would hold the encoder's weights a second time

    def embed(self, x_VNCHW: Tensor, draws: Draws | None = None) -> Tensor:
        """Return each patch's error, (1, N, 1). Without draws all patches are masked alike."""
        x_NCHW = x_VNCHW[0]
        draws = draws or Draws(0, 0, "mask", torch.zeros(len(x_NCHW), dtype=torch.int64, device=x_NCHW.device))
        keep_NK, mask_NM = self.masks(draws)
        prefix_NK = torch.arange(self.prefix, device=keep_NK.device).expand(len(keep_NK), -1)
        seen_NK = torch.cat([prefix_NK, keep_NK + self.prefix], 1)
        h_NKD = self.bridge(self._masked[0].encode(x_NCHW, idx_keep=seen_NK))
        all_NLD = tokens.repeat_token(self.decoder.mask_token, (len(x_NCHW), self.prefix + self.length))
        decoded_NLD = self.decoder(tokens.set_at_index(all_NLD, seen_NK, h_NKD.type_as(all_NLD)))
        drawn_NMP = self.pixels(tokens.get_at_index(decoded_NLD, mask_NM + self.prefix))
        error_NMP = drawn_NMP.float() - tokens.get_at_index(self.pixels_of(x_NCHW), mask_NM)
        return error_NMP.square().mean((1, 2))[None, :, None]

    def masks(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the tokens that each patch keeps and those that are masked, (N, L - M) and (N, M)."""
        kept = min(max(int(self.length * (1 - self.mask_ratio)), 1), self.length - 1)
        order_NL = draws.uniform("mask", self.length).argsort(dim=1, stable=True)  # ties: the same on every device
        return order_NL[:, :kept], order_NL[:, kept:]

    def pixels_of(self, x_NCHW: Tensor) -> Tensor:
        """Return what is to be drawn, (N, L, P)."""
        pixels_NLP = tokens.patchify(x_NCHW.float(), self.patch)
        return tokens.normalize_mean_var(pixels_NLP) if self.normalise else pixels_NLP

    def objective(self, z_KND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean error."""
        return z_KND.mean(), {}


def plain_vit(encoder: Any) -> Any:
    """Return the encoder's ViT; ConfigError unless tokens can be left out and every weight would be trained."""
    trunk = getattr(encoder, "trunk", None)
    what = type(encoder).__name__ if trunk is None else type(trunk).__name__
    advice = "Choose encoder=vit, encoder=vit_tiny or a plain ViT of timm (encoder=timm)."
    if not isinstance(trunk, VisionTransformer) or trunk.pos_embed is None:
        raise ConfigError(f"method=mae leaves tokens out, which needs a plain ViT, not {what}. {advice}")
    rest = [name for name, _ in trunk.named_parameters() if name.partition(".")[0] not in TRAINED]
    if rest:
        raise ConfigError(f"method=mae would not train {', '.join(rest[:3])} of this ViT. {advice}")
    patch_h, patch_w = trunk.patch_embed.patch_size
    if patch_h != patch_w or encoder.image_size % patch_h or encoder.image_size < 2 * patch_h:
        raise ConfigError(
            f"method=mae: image_size={encoder.image_size} cannot be divided into several tokens of {patch_h} x "
            f"{patch_w} pixels; set encoder.patch_size or image_size."
        )
    return trunk


def build(spec: MAESpec, *, encoder: nn.Module, seed: int) -> MAE:
    """Build with a decoder drawn from `seed`; the encoder is taken as it is."""
    return MAE(spec, encoder, seed)
