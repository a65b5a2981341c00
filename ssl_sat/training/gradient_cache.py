"""The gradient of a batch that does not fit into memory: embeddings in chunks, one objective over all of them.

Gao et al. 2021 ('Scaling deep contrastive learning batch size under memory limited setup', section 3): the objective
needs all embeddings of a batch, but its gradient reaches the network through each embedding alone. So every chunk is
embedded without keeping activations, and embedded again in backward, when its part of the gradient is known. Here the
second pass is torch's non-reentrant checkpoint, which leaves automatic optimisation, autocast and
DistributedDataParallel (one reduction a step) as they are. Views are made inside the chunk: a draw depends on the
patch alone, so they are made twice rather than kept.

Equal to the whole batch but for the order of summation, with layer or group norm or none. Batch norm normalises within
a chunk, as it does within a device: another network function, deliberate. Its running statistics move once a chunk.
What it costs is a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def embed_in_chunks(
    embed: Callable[[Any], Tensor], views: Callable[[slice], Any], count: int, chunk: int, network: nn.Module
) -> Tensor:
    """Return z_KND of patches 0 ... count - 1, as `embed(views(slice(0, count)))`, `chunk` patches in memory at a time.

    views: makes what embed takes of a slice of the batch, the same again whenever it is asked. network: the module
    whose running statistics must not move in the second pass.
    """

    def one(part: slice) -> Tensor:
        with torch.no_grad():
            inputs = views(part)
        return embed(inputs)

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _statistics_kept(network)

    parts = [slice(first, min(first + chunk, count)) for first in range(0, count, chunk)]
    return torch.cat([checkpoint(one, part, use_reentrant=False, context_fn=contexts) for part in parts], 1)


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Give norm layers their running statistics back at the end, whatever happened to them inside."""
    layers = [m for m in network.modules() if isinstance(m, _NormBase) and m.track_running_stats and m.training]
    buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
