"""MoCo v2 (Chen et al. 2020; He et al. 2020): a query against its key and a queue of keys of earlier batches.

The queue and its position are buffers, part of every checkpoint and equal on all processes: each brings its keys, all
enqueue all of them. It starts with random directions, as the authors' does, and moves with each forward pass in
training, so `accumulate` moves it several times a step.

Batch norm lets a query recognise the statistics of the batch that its key shares and no key of the queue does; the
authors shuffle keys between devices, which does nothing on one device, and nothing where batch norm is synchronised.
Here the key encoder is in eval mode: it normalises by running statistics, those of the query encoder, as in Cai et al.
2021 ('Exponential moving average normalization'; they average the statistics, we copy them). A key then depends on its
own patch alone, on any number of devices.

Legend: N patches, C bands, V = 2 views, D features, Q keys in the queue, M keys of all processes.
"""

from __future__ import annotations

import math

import torch
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor, nn
from torch.nn import functional

from ssl_sat.encoders.contract import seeded
from ssl_sat.losses.collapse import embedding_std
from ssl_sat.losses.gather import gather_views, is_distributed
from ssl_sat.methods.contract import Method
from ssl_sat.methods.spec import MoCoSpec
from ssl_sat.optim.ema import EMA
from ssl_sat.precision import full_float32


class MoCo(Method):
    """View 0 asks, view 1 answers; the momentum is constant, as in the paper."""

    num_views = 2
    queue: Tensor
    position: Tensor

    def __init__(self, spec: MoCoSpec, encoder: nn.Module, seed: int) -> None:
        super().__init__()
        self.encoder, self.temperature, self.momentum = encoder, spec.temperature, spec.momentum
        with seeded(seed):
            self.head = MoCoProjectionHead(int(encoder.embed_dim), spec.head_hidden, spec.head_out)  # type: ignore[arg-type]
            queue_QD = functional.normalize(torch.randn(spec.queue, spec.head_out), dim=-1)
        self.keys = EMA(nn.Sequential(encoder, self.head), buffers="copy").eval()
        self.register_buffer("queue", queue_QD)
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> MoCo:
        """Set the mode of all but the key encoder, which stays in eval mode."""
        super().train(mode)
        self.keys.eval()
        return self

    def embed(self, x_VNCHW: Tensor) -> Tensor:
        """Return the queries of view 0 and the keys of the others, (V, N, D), not normalised."""
        rows = [self.head(self.encoder(x_VNCHW[0])), *(self.keys(x_NCHW) for x_NCHW in x_VNCHW[1:])]
        return torch.stack(rows)

    def objective(self, z_KND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy of a query's own key among the queue (He et al. 2020, equation 1)."""
        with full_float32(z_KND.device):
            z_KND = z_KND if z_KND.dtype == torch.float64 else z_KND.float()
            query_ND, key_ND = functional.normalize(z_KND, dim=-1)
            key_ND = key_ND.detach()
            queue_QD = self.queue.to(query_ND.dtype, copy=True)  # it moves on before backward
            positive_N1 = (query_ND * key_ND).sum(-1, keepdim=True)
            negative_NQ = query_ND @ queue_QD.T
            logits = torch.cat([positive_N1, negative_NQ], 1) / self.temperature
            loss = functional.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
        if self.training:
            self._enqueue(key_ND)
        return loss, {
            "loss_floor": loss.new_tensor(moco_floor(len(queue_QD), self.temperature)),
            "loss_collapse": loss.new_tensor(math.log1p(len(queue_QD))),
            "positive_similarity": positive_N1.detach().mean(),
            "negative_similarity": negative_NQ.detach().mean(),
            "embedding_std": embedding_std(query_ND.detach()),
        }

    @torch.no_grad()
    def _enqueue(self, key_ND: Tensor) -> None:
        """Put the keys of all processes in place of the oldest, without waiting for the device."""
        key_MD = gather_views(key_ND[None])[0] if is_distributed() else key_ND
        key_MD = key_MD[-len(self.queue) :]
        at_M = (self.position + torch.arange(len(key_MD), device=key_MD.device)) % len(self.queue)
        self.queue.index_copy_(0, at_M, key_MD.to(self.queue.dtype))
        self.position.add_(len(key_MD)).remainder_(len(self.queue))

    def after_step(self, step: int, total: int) -> None:
        """Let the key encoder follow."""
        self.keys.update(nn.Sequential(self.encoder, self.head), self.momentum)


def moco_floor(queue: int, temperature: float) -> float:
    """Return a bound from below: a key equal to its query, and all of the queue opposite."""
    return math.log1p(queue * math.exp(-2 / temperature))


def build(spec: MoCoSpec, *, encoder: nn.Module, seed: int) -> MoCo:
    """Build with head and queue drawn from `seed`; the encoder is taken as it is."""
    return MoCo(spec, encoder, seed)
