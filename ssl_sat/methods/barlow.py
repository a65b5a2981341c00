"""Barlow Twins (Zbontar et al. 2021): the cross-correlation of two views' features should be the identity.

Legend: N patches, V = 2 views, D features.
"""

from __future__ import annotations

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead
from torch import Tensor, nn

from ssl_sat.encoders.contract import seeded
from ssl_sat.methods.covariance import Covariance
from ssl_sat.methods.spec import BarlowSpec


class Barlow(Covariance):
    """lightly's loss over the global batch (algorithm 1 and equation 1), features standardised over that batch."""

    def __init__(self, spec: BarlowSpec, encoder: nn.Module, seed: int) -> None:
        with seeded(seed):
            head = BarlowTwinsProjectionHead(int(encoder.embed_dim), spec.head_hidden, spec.head_out)  # type: ignore[arg-type]
        super().__init__(encoder, head)
        self.weight = spec.redundancy_weight
        self.loss_of = BarlowTwinsLoss(spec.redundancy_weight)

    def criterion(self, z_VND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss with its bounds."""
        _, patches, features = z_VND.shape
        loss = self.loss_of(z_VND[0], z_VND[1])
        floor = loss.new_tensor(barlow_floor(patches, features, self.weight))
        return loss, {"loss_floor": floor, "loss_collapse": loss.new_tensor(float(features))}


def barlow_floor(patches: int, features: int, weight: float) -> float:
    """Return a bound from below for redundancy weights up to 1.

    N standardised patches span N - 1 dimensions, so that more features than that cannot all be uncorrelated. For a
    cross-correlation C of rank r <= N - 1 with trace tD, |C|^2 >= (tD)^2 / r, hence
    loss >= D min_t (1 - 2t + (1 + k) t^2) = D k / (1 + k),  k = weight * max(D / r - 1, 0).
    """
    k = weight * max(features / max(patches - 1, 1) - 1, 0.0)
    return features * k / (1 + k)


def build(spec: BarlowSpec, *, encoder: nn.Module, seed: int) -> Barlow:
    """Build with a projection head drawn from `seed`; the encoder is taken as it is."""
    return Barlow(spec, encoder, seed)
