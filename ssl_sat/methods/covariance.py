"""What Barlow Twins and VICReg share: statistics over a batch of projections, which keep features apart.

The statistics are those of the global batch: projections of all processes are gathered with their gradient, every
process computes the same loss, and DDP's average of the gradients is that of one process with the whole batch.

Legend: N patches, C bands, V = 2 views, D features.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from ssl_sat.losses.collapse import embedding_std, pair_similarities
from ssl_sat.losses.gather import gather_with_gradient, is_distributed
from ssl_sat.methods.contract import Method
from ssl_sat.precision import full_float32


class Covariance(Method):
    """Encoder and projection head, both views in one forward, a criterion over all projections of the batch."""

    num_views = 2

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    @abc.abstractmethod
    def criterion(self, z_VND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of all projections and what to log beside it."""

    def embed(self, x_VNCHW: Tensor) -> Tensor:
        """Return projections (V, N, D), not normalised."""
        return self.head(self.encoder(x_VNCHW.flatten(0, 1))).unflatten(0, x_VNCHW.shape[:2])

    def objective(self, z_KND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the criterion of the global batch."""
        with full_float32(z_KND.device):
            z_KND = z_KND if z_KND.dtype == torch.float64 else z_KND.float()
            loss, logs = self.criterion(gather_with_gradient(z_KND) if is_distributed() else z_KND)
        own = z_KND.detach()
        positive, negative = pair_similarities(own)
        measures = {"positive_similarity": positive, "negative_similarity": negative}
        return loss, {**logs, **measures, "embedding_std": embedding_std(own[0])}
