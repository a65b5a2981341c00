"""What SimCLR and DCL share: a projection head on the encoder, both views in one forward, measures beside the loss.

Legend: N patches, C bands, V views, D features.
"""

from __future__ import annotations

import abc
from typing import ClassVar, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_sat.losses.collapse import embedding_std, pair_similarities
from ssl_sat.losses.gather import is_distributed
from ssl_sat.methods.contract import Method
from ssl_sat.methods.heads import ProjectionHead
from ssl_sat.methods.spec import ContrastiveSpec


class Loss(Protocol):
    """A loss of embeddings (V, N, D)."""

    def __call__(self, z_VND: Tensor, temperature: float, *, gather: bool = False) -> Tensor: ...  # noqa: D102


class Contrastive(Method):
    """All views pass encoder and head in one forward, so that batch norm sees them together.

    With several processes, negatives come from all of them.
    """

    contrast: ClassVar[Loss]

    def __init__(self, spec: ContrastiveSpec, encoder: nn.Module, seed: int) -> None:
        super().__init__()
        self.encoder, self.temperature, self.num_views = encoder, spec.temperature, spec.views
        width = int(encoder.embed_dim)  # type: ignore[arg-type]
        self.head = ProjectionHead(width, spec.head_hidden, spec.head_out, spec.head_batch_norm, seed)

    @abc.abstractmethod
    def bounds(self, num_pairs: int) -> tuple[float, float]:
        """Return the smallest value of the loss and its value at collapse."""

    def embed(self, x_VNCHW: Tensor) -> Tensor:
        """Return embeddings (V, N, D), not normalised."""
        z = self.head(self.encoder(x_VNCHW.flatten(0, 1)))
        return z.unflatten(0, x_VNCHW.shape[:2])

    def objective(self, z_VND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the measures that show whether it means anything."""
        loss = type(self).contrast(z_VND, self.temperature, gather=True)
        return loss, self._logs(z_VND.detach())

    def _logs(self, z_VND: Tensor) -> dict[str, Tensor]:
        pairs = z_VND.shape[1] * (dist.get_world_size() if is_distributed() else 1)
        floor, collapse = self.bounds(pairs)
        positive, negative = pair_similarities(z_VND)
        return {
            "loss_floor": torch.full((), floor, device=z_VND.device),
            "loss_collapse": torch.full((), collapse, device=z_VND.device),
            "positive_similarity": positive,
            "negative_similarity": negative,
            "embedding_std": embedding_std(z_VND[0]),
        }
