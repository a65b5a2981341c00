"""Specs of the corruptions: five levels each, what they count in stands beside them. Torch-free."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import model_validator

from ssl_sat.spec import Spec

Levels = tuple[float, float, float, float, float]


class CorruptionSpec(Spec):
    """`levels`: the strength at severity 1 to 5, in the unit that the corruption states; they rise, or fall."""

    name: str
    levels: Levels

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        steps = {after > before for before, after in pairwise(self.levels)}
        if len(steps) != 1 or any(before == after for before, after in pairwise(self.levels)) or min(self.levels) <= 0:
            raise ValueError(f"five positive levels are needed, each beyond the one before, not {list(self.levels)}")
        return self


class CloudSpec(CorruptionSpec):
    """Clouds with their shadows. Levels: share of the patch that is under cloud."""

    name: Literal["cloud"] = "cloud"
    levels: Levels = (0.01, 0.03, 0.08, 0.20, 0.45)


class HazeSpec(CorruptionSpec):
    """Scattering by aerosol, stronger at short wavelengths. Levels: optical depth (backscatter, two ways) at 550 nm."""

    name: Literal["haze"] = "haze"
    levels: Levels = (0.05, 0.10, 0.20, 0.40, 0.80)


class LevelSpec(CorruptionSpec):
    """The other processing level: L2A data as L1C, L1C as L2A. Levels: molecular atmospheres at sea level."""

    name: Literal["l1c_l2a"] = "l1c_l2a"
    levels: Levels = (0.25, 0.5, 1.0, 1.5, 2.0)


class NoiseSpec(CorruptionSpec):
    """Shot noise (Poisson) and read noise (Gaussian). Levels: electrons at reflectance 1; fewer are noisier."""

    name: Literal["noise"] = "noise"
    levels: Levels = (20_000.0, 5_000.0, 1_500.0, 500.0, 150.0)
    read_electrons: float = 3.0


class StripesSpec(CorruptionSpec):
    """Detector columns with own gain and offset. Levels: standard deviation of the relative gain."""

    name: Literal["stripes"] = "stripes"
    levels: Levels = (0.01, 0.02, 0.04, 0.08, 0.16)


class SaturationSpec(CorruptionSpec):
    """A ceiling of each band. Levels: where it lies between the band's median (0) and its 99th percentile (1)."""

    name: Literal["saturation"] = "saturation"
    levels: Levels = (1.0, 0.75, 0.5, 0.25, 0.1)


class OffsetSpec(CorruptionSpec):
    """The offset of processing baseline 04.00, left in. Levels: Sentinel-2 digital numbers; 1000 is the whole."""

    name: Literal["offset"] = "offset"
    levels: Levels = (200.0, 400.0, 600.0, 800.0, 1000.0)


class BandDropSpec(CorruptionSpec):
    """Bands without data (digital number 0). Levels: share of the bands, rounded up; one always stays."""

    name: Literal["band_drop"] = "band_drop"
    levels: Levels = (0.1, 0.25, 0.4, 0.6, 0.8)


class BandSwapSpec(CorruptionSpec):
    """Bands in each other's place, within a resolution. Levels: share of the bands, rounded up; at least two."""

    name: Literal["band_swap"] = "band_swap"
    levels: Levels = (0.1, 0.25, 0.5, 0.75, 1.0)


class BlurSpec(CorruptionSpec):
    """Gaussian point spread. Levels: sigma in pixels of the finest resolution."""

    name: Literal["blur"] = "blur"
    levels: Levels = (0.5, 0.8, 1.2, 1.8, 2.7)


class ResampleSpec(CorruptionSpec):
    """A coarser sensor, brought back to the grid. Levels: its pixel in pixels of the finest resolution."""

    name: Literal["resample"] = "resample"
    levels: Levels = (1.5, 2.0, 3.0, 4.0, 6.0)


class MisregistrationSpec(CorruptionSpec):
    """Each band shifted its own way. Levels: how far, in pixels of the finest resolution."""

    name: Literal["misregistration"] = "misregistration"
    levels: Levels = (0.25, 0.5, 1.0, 1.5, 2.5)
