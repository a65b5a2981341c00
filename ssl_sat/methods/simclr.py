"""SimCLR (Chen et al. 2020): agreement of two views of a patch against all other patches of the batch.

Legend: N patches, C bands, V = 2 views, D features.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_sat.losses.collapse import embedding_std, pair_similarities
from ssl_sat.losses.gather import is_distributed
from ssl_sat.losses.nt_xent import nt_xent, nt_xent_collapse, nt_xent_floor
from ssl_sat.methods.contract import Method
from ssl_sat.methods.heads import ProjectionHead
from ssl_sat.methods.spec import SimCLRSpec


class SimCLR(Method):
    """Both views pass encoder and head in one forward, so that batch norm sees them together.

    With several processes, negatives come from all of them.
    """

    num_views = 2

    def __init__(self, encoder: nn.Module, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.encoder, self.head, self.temperature = encoder, head, temperature

    def forward(self, x_VNCHW: Tensor) -> Tensor:
        """Return embeddings (V, N, D)."""
        z = self.head(self.encoder(x_VNCHW.flatten(0, 1)))
        return z.unflatten(0, x_VNCHW.shape[:2])

    def loss(self, x_VNCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return NT-Xent and the measures that show whether it means anything."""
        z_VND = self(x_VNCHW)
        loss = nt_xent(z_VND, self.temperature, gather=True)
        return loss, self._logs(z_VND.detach())

    def _logs(self, z_VND: Tensor) -> dict[str, Tensor]:
        pairs = z_VND.shape[1] * (dist.get_world_size() if is_distributed() else 1)
        positive, negative = pair_similarities(z_VND)
        return {
            "loss_floor": torch.full((), nt_xent_floor(pairs, self.temperature), device=z_VND.device),
            "loss_collapse": torch.full((), nt_xent_collapse(pairs), device=z_VND.device),
            "positive_similarity": positive,
            "negative_similarity": negative,
            "embedding_std": embedding_std(z_VND[0]),
        }


def build(spec: SimCLRSpec, *, encoder: nn.Module, seed: int) -> SimCLR:
    """Build with a projection head drawn from `seed`; the encoder is taken as it is."""
    width = int(encoder.embed_dim)  # type: ignore[arg-type]
    head = ProjectionHead(width, spec.head_hidden, spec.head_out, spec.head_batch_norm, seed)
    return SimCLR(encoder, head, spec.temperature)
