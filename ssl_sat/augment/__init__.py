"""Views of patches: batched, on the device, any number of bands, drawn per sample and per view.

A recipe is a YAML of `conf/augment`; all share one spec and one builder.
"""

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.registry import Registry

AUGMENTS = Registry("augment")
for _name in ("none", "d4", "eo_light", "simclr_ms", "simclr_rgb", "simclr_rgb_nadir", "study"):
    AUGMENTS.add(_name, "ssl_sat.augment.views:Views", AugmentSpec, version=1)

CODE = (  # the modules that decide what a view is
    *(f"ssl_sat.augment.{name}" for name in ("views", "geometric", "radiometric", "display", "draws", "cpu_kernel")),
    "ssl_sat.precision",
)
