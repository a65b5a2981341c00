"""SimSiam (Chen & He 2021): BYOL without the moving average; the target is the network's own projection, stopped."""

from __future__ import annotations

from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor, nn

from ssl_sat.encoders.contract import seeded
from ssl_sat.methods.asymmetric import Asymmetric
from ssl_sat.methods.spec import SimSiamSpec


class SimSiam(Asymmetric):
    """Negative cosine similarity (equation 1): -1 where predictions equal targets, 0 where they know nothing.

    The authors keep the predictor's rate constant; here it follows the schedule of all others.
    """

    def __init__(self, spec: SimSiamSpec, encoder: nn.Module, seed: int) -> None:
        width = int(encoder.embed_dim)  # type: ignore[arg-type]
        with seeded(seed):
            head = SimSiamProjectionHead(width, spec.head_hidden, spec.head_out)
            predictor = SimSiamPredictionHead(spec.head_out, spec.predictor_hidden, spec.head_out)
        super().__init__(encoder, head, predictor)

    def targets(self, x_MCHW: Tensor, z_MD: Tensor) -> Tensor:
        """Return the projections themselves."""
        return z_MD


def build(spec: SimSiamSpec, *, encoder: nn.Module, seed: int) -> SimSiam:
    """Build with heads drawn from `seed`; the encoder is taken as it is."""
    return SimSiam(spec, encoder, seed)
