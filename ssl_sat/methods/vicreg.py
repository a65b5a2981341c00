"""VICReg (Bardes et al. 2022): views alike (invariance), features alive (variance) and unlike (covariance).

Legend: N patches, V = 2 views, D features.
"""

from __future__ import annotations

from lightly.loss.vicreg_loss import invariance_loss, variance_loss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor, nn

from ssl_sat.encoders.contract import seeded
from ssl_sat.methods.covariance import Covariance
from ssl_sat.methods.spec import VICRegSpec


class VICReg(Covariance):
    """The three terms (equations 1 to 6), logged one by one; the covariance is ours, the others lightly's.

    As in the authors' code and lightly's loss the variance term is the mean over the views, where equation 6 has the
    sum. At collapse the variance term is 1 - sqrt(eps) and the others 0; the loss has no floor above 0.
    """

    def __init__(self, spec: VICRegSpec, encoder: nn.Module, seed: int) -> None:
        with seeded(seed):
            head = VICRegProjectionHead(int(encoder.embed_dim), spec.head_hidden, spec.head_out)  # type: ignore[arg-type]
        super().__init__(encoder, head)
        self.weights = (spec.invariance_weight, spec.variance_weight, spec.covariance_weight)

    def criterion(self, z_VND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and its terms."""
        first, second = z_VND
        invariance = invariance_loss(first, second)
        variance = (variance_loss(first) + variance_loss(second)) / 2
        covariance = covariance_term(first) + covariance_term(second)
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        loss = sum(weight * term for weight, term in zip(self.weights, terms.values(), strict=True))
        return loss, {name: term.detach() for name, term in terms.items()}  # type: ignore[return-value]


def covariance_term(z_ND: Tensor) -> Tensor:
    """Return the sum of the squared covariances of unlike features, over D (equation 4).

    lightly picks the entries beside the diagonal by a mask of (D, D), which costs more than the product itself.
    """
    centred_ND = z_ND - z_ND.mean(0)
    covariance_DD = centred_ND.T @ centred_ND / (len(z_ND) - 1)
    return (covariance_DD.square().sum() - covariance_DD.diagonal().square().sum()) / z_ND.shape[1]


def build(spec: VICRegSpec, *, encoder: nn.Module, seed: int) -> VICReg:
    """Build with a projection head drawn from `seed`; the encoder is taken as it is."""
    return VICReg(spec, encoder, seed)
