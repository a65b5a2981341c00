"""Imported by the server of `fakes.runs`, so that its processes find the kernels of the views compiled."""

import torch

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views

_blur = AugmentSpec(name="warm", crop_scale=(0.5, 1.0), blur=1.0)
for _dtype in (torch.uint8, torch.int16):
    _views = Views(
        _blur, layout=[(("B04", "B03", "B02"), 8, 8)], bands=("B04", "B03", "B02"), scale=1.0, offset=0.0,
        mean_C=[0.0] * 3, std_C=[1.0] * 3, image_size=8, num_views=1,
    )  # fmt: skip
    _groups = (torch.zeros(2, 3, 8, 8, dtype=_dtype),)
    _views.center(_groups)
    _views(_groups, torch.arange(2), 0)
