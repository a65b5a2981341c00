"""Corruptions of satellite images in reflectance, at five severities: the same classes under other conditions.

They act on the records of a pack at native resolution and give records again, rounded and clipped as a product would
be. Draws are counter-based: a corrupted patch depends on (seed, corruption, sample) alone, and a higher severity
changes the same patch further in the same way.
"""

from ssl_sat.evaluation.corruptions.spec import (
    BandDropSpec,
    BandSwapSpec,
    BlurSpec,
    CloudSpec,
    HazeSpec,
    LevelSpec,
    MisregistrationSpec,
    NoiseSpec,
    OffsetSpec,
    ResampleSpec,
    SaturationSpec,
    StripesSpec,
)
from ssl_sat.registry import Registry

_HERE = "ssl_sat.evaluation.corruptions"
CORRUPTIONS = Registry("corruption")
CORRUPTIONS.add("cloud", f"{_HERE}.atmosphere:cloud", CloudSpec, version=1)
CORRUPTIONS.add("haze", f"{_HERE}.atmosphere:haze", HazeSpec, version=1)
CORRUPTIONS.add("l1c_l2a", f"{_HERE}.atmosphere:level", LevelSpec, version=1)
CORRUPTIONS.add("noise", f"{_HERE}.sensor:noise", NoiseSpec, version=1)
CORRUPTIONS.add("stripes", f"{_HERE}.sensor:stripes", StripesSpec, version=1)
CORRUPTIONS.add("saturation", f"{_HERE}.sensor:saturation", SaturationSpec, version=1)
CORRUPTIONS.add("offset", f"{_HERE}.sensor:offset", OffsetSpec, version=1)
CORRUPTIONS.add("band_drop", f"{_HERE}.bands:drop", BandDropSpec, version=1)
CORRUPTIONS.add("band_swap", f"{_HERE}.bands:swap", BandSwapSpec, version=1)
CORRUPTIONS.add("blur", f"{_HERE}.geometry:blur", BlurSpec, version=1)
CORRUPTIONS.add("resample", f"{_HERE}.geometry:resample", ResampleSpec, version=1)
CORRUPTIONS.add("misregistration", f"{_HERE}.geometry:misregistration", MisregistrationSpec, version=1)

SEVERITIES = (1, 2, 3, 4, 5)
CODE = ("ssl_sat.evaluation.corruptions.scene", "ssl_sat.augment.draws")
