"""What BYOL and SimSiam share: predictions of one view meet the other view's projection, which carries no gradient.

Without negatives a constant embedding would be the best answer; predictor and stopped gradient keep the networks from
it, and `embedding_std` tells whether they did. There is no floor to log: -1 (0 for BYOL) is reached at collapse too.

Both views pass encoder and head in one forward, so that batch norm sees them together (the authors: one by one).

Legend: N patches, C bands, V = 2 views, D features.
"""

from __future__ import annotations

import abc

import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor, nn

from ssl_sat.losses.collapse import embedding_std
from ssl_sat.methods.contract import Method
from ssl_sat.precision import full_float32


class Asymmetric(Method):
    """Encoder, projection head and predictor; `targets` is what predictions are held against."""

    num_views = 2

    def __init__(self, encoder: nn.Module, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head, self.predictor = encoder, head, predictor
        self.similarity = NegativeCosineSimilarity()

    @abc.abstractmethod
    def targets(self, x_MCHW: Tensor, z_MD: Tensor) -> Tensor:
        """Return what the other view's predictions are held against, given images and their projections."""

    def embed(self, x_VNCHW: Tensor) -> Tensor:
        """Return projections, predictions and targets, (3V, N, D), in this order."""
        x_MCHW = x_VNCHW.flatten(0, 1)
        z_MD = self.head(self.encoder(x_MCHW))
        rows = torch.cat([z_MD, self.predictor(z_MD), self.targets(x_MCHW, z_MD).detach()])
        return rows.unflatten(0, (-1, x_VNCHW.shape[1]))

    def objective(self, z_KND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the negative cosine similarity of predictions and the other view's targets, mean over both ways."""
        with full_float32(z_KND.device):
            z_KND = z_KND if z_KND.dtype == torch.float64 else z_KND.float()
            projection, prediction, target = z_KND.chunk(3)
            loss = self.similarity(prediction.flatten(0, 1), target.detach().flip(0).flatten(0, 1))
        return loss, {"positive_similarity": -loss.detach(), "embedding_std": embedding_std(projection[0].detach())}
