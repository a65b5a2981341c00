"""What a recipe of views is configured by. Everything is off unless it is stated."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ssl_sat.spec import Spec

Chance = Annotated[float, Field(ge=0, le=1)]


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"a range (low, high) with 0 < low <= high is needed, got {pair}")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


class RgbSpec(Spec):
    """Operations on display images of red, green, blue, as torchvision's: ColorJitter, grayscale, solarise.

    They act in the fixed order brightness, contrast, saturation, hue (torchvision draws an order), with probability
    `jitter`. `white` is the reflectance shown as 1 for 16-bit data; 8-bit images are display values already.
    """

    jitter: Chance = 0.8
    brightness: float = Field(0.4, ge=0, le=1)
    contrast: float = Field(0.4, ge=0, le=1)
    saturation: float = Field(0.4, ge=0, le=1)
    hue: float = Field(0.1, ge=0, le=0.5)
    grayscale: Chance = 0.0
    solarise: Chance = 0.0
    white: float = Field(0.3, gt=0)


class AugmentSpec(Spec):
    """A recipe. Probabilities are per sample and view; reflectance (or display value) is the unit of offsets and noise.
    With `rgb` the noise is in display units as well: its deviation is a share of `rgb.white`.

    eval: how the one view of evaluation is framed: `crop` takes the central image_size px of the finest grid where
      the patch is larger, which keeps the scale; `resize` takes the whole patch.
    crop_scale, crop_ratio: share of area and aspect of a random resized crop; null scale frames as in evaluation.
    rot90: a right angle for `each` view, or one `shared` by the views of a patch.
    blur: kernel in pixels of the output, sigma drawn from the range.
    jitter: probability of the radiometric draw: gain and offset per band (1 +- gain, +- offset), then one brightness
      and one contrast for all bands (1 +- each; contrast about each band's own mean).
    smoothing: probability of mixing bands with their neighbours in wavelength, by up to smoothing_share.
    band_drop: probability of each band to be set to its mean; one band always stays.
    """

    name: str
    eval: Literal["crop", "resize"] = "crop"
    crop_scale: Range | None = None
    crop_ratio: Range = (3 / 4, 4 / 3)
    flip_horizontal: Chance = 0.0
    flip_vertical: Chance = 0.0
    rot90: Literal["no", "each", "shared"] = "no"
    blur: Chance = 0.0
    blur_kernel: int = Field(3, ge=3)
    blur_sigma: Range = (0.1, 2.0)
    jitter: Chance = 0.0
    gain: float = Field(0.0, ge=0, lt=1)
    offset: float = Field(0.0, ge=0)
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    smoothing: Chance = 0.0
    smoothing_share: float = Field(0.5, ge=0, le=1)
    band_drop: Chance = 0.0
    noise: Chance = 0.0
    noise_sigma: float = Field(0.0, ge=0)
    cutout: Chance = 0.0
    cutout_px: int = Field(16, gt=0)
    rgb: RgbSpec | None = None

    @model_validator(mode="after")
    def _is_a_recipe(self) -> Self:
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd, got {self.blur_kernel}")
        if self.noise and not self.noise_sigma:
            raise ValueError("noise needs a noise_sigma above 0")
        if self.name != "none" and self.is_identity():
            raise ValueError(f"the recipe '{self.name}' has no operation; its YAML is conf/augment/{self.name}.yaml")
        return self

    def is_identity(self) -> bool:
        """Whether a training view is the view of evaluation."""
        chances = (self.flip_horizontal, self.flip_vertical, self.blur, self.jitter, self.smoothing, self.band_drop)
        drawn = any(chances) or self.noise > 0 or self.cutout > 0 or self.rot90 != "no"
        return not drawn and self.crop_scale is None and self.rgb is None
