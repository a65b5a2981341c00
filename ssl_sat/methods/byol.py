"""BYOL (Grill et al. 2020): predict the projection that a moving average of the network gives to the other view.

The encoder that is kept is the online one, as in the paper. The target starts as its copy, follows it after each
optimiser step with a decay that rises from `momentum` to 1 by a cosine (section 3.3), and normalises by the statistics
of its own batches, as in the paper. The loss is the mean over both ways, the paper's is their sum.
"""

from __future__ import annotations

from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor, nn

from ssl_sat.encoders.contract import seeded
from ssl_sat.methods.asymmetric import Asymmetric
from ssl_sat.methods.spec import BYOLSpec
from ssl_sat.optim.ema import EMA, cosine_decay


class BYOL(Asymmetric):
    """2 - 2 cos of predictions and targets (equation 2): 0 where they are equal, 2 where they know nothing."""

    def __init__(self, spec: BYOLSpec, encoder: nn.Module, seed: int) -> None:
        width = int(encoder.embed_dim)  # type: ignore[arg-type]
        with seeded(seed):
            head = BYOLProjectionHead(width, spec.head_hidden, spec.head_out)
            predictor = BYOLPredictionHead(spec.head_out, spec.head_hidden, spec.head_out)
        super().__init__(encoder, head, predictor)
        self.target = EMA(nn.Sequential(encoder, head), buffers="own")
        self.momentum = spec.momentum

    def targets(self, x_MCHW: Tensor, z_MD: Tensor) -> Tensor:
        """Return the moving average's projections."""
        return self.target(x_MCHW)

    def objective(self, z_KND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the squared distance of unit vectors, mean over both ways."""
        loss, logs = super().objective(z_KND)
        return 2 + 2 * loss, logs

    def after_step(self, step: int, total: int) -> None:
        """Let the target follow."""
        self.target.update(nn.Sequential(self.encoder, self.head), cosine_decay(step, total, self.momentum))


def build(spec: BYOLSpec, *, encoder: nn.Module, seed: int) -> BYOL:
    """Build with heads drawn from `seed`; the encoder is taken as it is."""
    return BYOL(spec, encoder, seed)
