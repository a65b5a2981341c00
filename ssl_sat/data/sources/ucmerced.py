"""UC Merced Land Use (Yang and Newsam 2010): 21 classes of aerial RGB at 0.3 m, TIFFs of 256 px or nearly."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from typing_extensions import override

from ssl_sat.data.sources.contract import descend
from ssl_sat.data.sources.images import ImageSource
from ssl_sat.data.spec import UcMercedSpec


def build(spec: UcMercedSpec) -> UcMerced:
    """The source of UC Merced."""
    return UcMerced(spec)


class UcMerced(ImageSource):
    """`Images/<class>/<class>NN.tif`; ids are the bare names. gsd_m is that of a 256 px image after the resize."""

    needs = (
        "the unpacked UCMerced_LandUse folder, with Images/<class>/ (weegee.vision.ucmerced.edu/datasets/landuse.html)"
    )
    obtain = "curl -LO http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip && unzip UCMerced_LandUse.zip"
    names_are_ids = True
    sensor, native_px, native_gsd_m = "aerial", 256, 0.3
    spec: UcMercedSpec

    @cached_property
    @override
    def base(self) -> Path:
        return descend(self.root, "UCMerced_LandUse", "Images")
