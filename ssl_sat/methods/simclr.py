"""SimCLR (Chen et al. 2020): agreement of two views of a patch against all other patches of the batch."""

from __future__ import annotations

from torch import nn

from ssl_sat.losses.nt_xent import nt_xent, nt_xent_collapse, nt_xent_floor
from ssl_sat.methods.contrastive import Contrastive
from ssl_sat.methods.spec import SimCLRSpec


class SimCLR(Contrastive):
    """NT-Xent over the projections."""

    contrast = staticmethod(nt_xent)

    def bounds(self, num_pairs: int) -> tuple[float, float]:
        """Return floor and collapse value of NT-Xent."""
        views = self.num_views
        return nt_xent_floor(num_pairs, self.temperature, views), nt_xent_collapse(num_pairs, views)


def build(spec: SimCLRSpec, *, encoder: nn.Module, seed: int) -> SimCLR:
    """Build with a projection head drawn from `seed`; the encoder is taken as it is."""
    return SimCLR(spec, encoder, seed)
