"""What every pretraining method promises: embeddings of patches, an objective over them, and nothing of loops,
devices or loggers.

A method is two functions and at most one hook. `embed` holds whatever costs memory and belongs to single patches:
networks. `objective` holds whatever needs the whole batch: similarities, covariances, queues. The cut between them is
what makes gradient caching possible (Gao et al. 2021): `embed` may be called on parts of a batch and again in backward,
`objective` is called once, on all of it.

How methods of other kinds fit:
    asymmetric (BYOL, SimSiam)     embed stacks projections, predictions and targets on the first axis, (3V, N, D);
                                   targets carry no gradient
    target networks (BYOL, MoCo)   an `optim.ema.EMA` is a submodule, called in embed, moved in after_step
    queues (MoCo)                  a buffer, read and advanced in objective
    covariance (Barlow, VICReg)    in objective; `losses.gather` where processes share the batch
    masked autoencoders            embed returns each patch's own error, (1, N, 1); objective is its mean. It draws for
                                   itself: `reconstructs` says that it takes keyed draws, and gives no embeddings

Legend: N patches, C bands, V views, K >= 1 rows of embeddings a patch (V for most methods), D features.
"""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor, nn


class Method(nn.Module, abc.ABC):
    """`encoder` is what is kept afterwards; everything else in `state_dict()` is saved beside it.

    Parameters that are not trained have requires_grad=False. Modules draw their first weights from the builder's seed
    alone. Logs are scalar tensors on the embeddings' device, without gradient; a method that can collapse logs
    `embedding_std` (1 for embeddings spread over the sphere, 0 at collapse), which the collapse guard reads, and one
    whose loss has known bounds `loss_floor` and `loss_collapse`.
    """

    encoder: nn.Module
    num_views: int
    reconstructs: ClassVar[bool] = False  # True: embed(x_VNCHW, draws) returns errors, not embeddings

    @abc.abstractmethod
    def embed(self, x_VNCHW: Tensor) -> Tensor:
        """Return embeddings z_KND, patches on the second axis in the order of x; row 0 is what collapse is read from.

        Patches may meet in norm layers only. It may be called on parts of a batch, and again in backward: no state
        changes here but the running statistics of norm layers.
        """

    @abc.abstractmethod
    def objective(self, z_KND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise over a batch of embeddings, and what to log beside it.

        Its gradient, averaged over processes (DDP), is that of the loss of the global batch. State that follows the
        batch changes here, in training mode.
        """

    def loss(self, x_VNCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `objective(embed(x))`."""
        return self.objective(self.embed(x_VNCHW))

    def after_step(self, step: int, total: int) -> None:
        """Called after optimiser step `step` of `total`, counted from 1: targets follow their networks here."""
