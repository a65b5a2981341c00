"""Embeddings of all processes: without autograd, for losses that compute exact gradients themselves, and with it.

Legend: N pairs, V views, D features, W processes, M = W * V * N rows in view-major order (view, rank, pair).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_views(u_VND: Tensor) -> Tensor:
    """Return (V, W * N, D): the views of all processes, by rank. Every process must bring the same N."""
    _require_equal(u_VND.shape[1], u_VND.device)
    parts_WVND = _all_gather(u_VND.contiguous())
    return parts_WVND.transpose(0, 1).flatten(1, 2)


def gather_with_gradient(z_VND: Tensor) -> Tensor:
    """Return (V, W * N, D) with gradient: where all processes compute the same loss, DDP's mean is its gradient."""
    from lightly.utils.dist import gather

    _require_equal(z_VND.shape[1], z_VND.device)
    return torch.cat(gather(z_VND.contiguous()), 1)


def gather_rows(values_R: Tensor, num_pairs: int) -> Tensor:
    """Return one value per row of all processes, in the order of `gather_views(...).flatten(0, 1)`."""
    parts_WVN = _all_gather(values_R.view(-1, num_pairs).contiguous())
    return parts_WVN.transpose(0, 1).flatten()


def _all_gather(value: Tensor) -> Tensor:
    parts = value.new_empty((dist.get_world_size(), *value.shape))
    dist.all_gather_into_tensor(parts.view(-1, *value.shape[1:]), value)
    return parts


def _require_equal(num_pairs: int, device: torch.device) -> None:
    """Fail where processes bring batches of different size: row positions and the mean would silently be wrong."""
    sizes_W = _all_gather(torch.tensor([num_pairs], device=device)).flatten()
    equal = (sizes_W == num_pairs).all()
    if device.type == "cuda":
        torch._assert_async(equal, "all processes need equal batches (drop_last=True)")  # no wait for the device
    elif not equal:
        raise ValueError(f"all processes need equal batches (drop_last=True), got sizes {sizes_W.tolist()}")
