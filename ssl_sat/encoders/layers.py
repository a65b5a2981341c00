"""How deep every parameter of an encoder lies, for rates that fall layer by layer."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters

from ssl_sat.encoders.contract import Encoder


def depths(encoder: Encoder) -> tuple[dict[str, int], int]:
    """Return the depth of every parameter by its name in the encoder, 0 for the first layers, and how many there are.

    A layer is what timm groups as one (`group_matcher`: a block of a ViT, a residual block of a ResNet), which is the
    unit of BEiT's and MAE's layer-wise decay, and a stage of ours for networks without such groups.
    """
    trunk: Any = getattr(encoder, "trunk", None)
    if hasattr(trunk, "group_matcher"):
        found = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        order = {number: at for at, number in enumerate(sorted(set(found.values())))}
        return {f"trunk.{name}": order[number] for name, number in found.items()}, len(order)
    depth_of = {id(p): at for at, (_, stage) in enumerate(encoder.stages) for p in stage.parameters()}
    return {name: depth_of[id(p)] for name, p in encoder.named_parameters()}, len(encoder.stages)
