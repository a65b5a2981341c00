"""What every pretraining method promises: a loss of views, and nothing of loops, devices or loggers."""

from __future__ import annotations

import abc

from torch import Tensor, nn


class Method(nn.Module, abc.ABC):
    """`encoder` is what is kept afterwards; everything else of the method is thrown away after pretraining.

    Logs are scalar tensors on the views' device, without gradient. `embedding_std` is among them wherever a method
    can collapse: 1 for embeddings spread over the sphere, 0 at collapse; the collapse guard reads it.
    """

    encoder: nn.Module
    num_views: int

    @abc.abstractmethod
    def loss(self, x_VNCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise and what to log beside it."""
