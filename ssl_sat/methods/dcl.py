"""DCL (Yeh et al. 2022): SimCLR with the decoupled loss, whose gradient does not fade in small batches."""

from __future__ import annotations

from torch import nn

from ssl_sat.losses.dcl import dcl, dcl_collapse, dcl_floor
from ssl_sat.methods.contrastive import Contrastive
from ssl_sat.methods.spec import DCLSpec


class DCL(Contrastive):
    """The decoupled loss over the projections."""

    contrast = staticmethod(dcl)

    def bounds(self, num_pairs: int) -> tuple[float, float]:
        """Return floor and collapse value of DCL."""
        return dcl_floor(num_pairs, self.temperature, self.num_views), dcl_collapse(num_pairs, self.num_views)


def build(spec: DCLSpec, *, encoder: nn.Module, seed: int) -> DCL:
    """Build with a projection head drawn from `seed`; the encoder is taken as it is."""
    return DCL(spec, encoder, seed)
