"""What a network costs: parameters, operations an image, images a second."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of weights, head included."""
    return sum(p.numel() for p in model.parameters())


def flops(model: Any, x_NCHW: Tensor) -> float:
    """Floating-point operations an image of one forward pass in eval mode, a multiply and an add counted as two.

    torch's counter: convolutions, matrix products and attention (taken apart into products); norms and activations
    are left out.
    """
    mode = model.training
    counter = FlopCounterMode(display=False)
    try:
        model.eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(x_NCHW)
    finally:
        model.train(mode)
    return counter.get_total_flops() / len(x_NCHW)


def images_per_second(model: Any, x_NCHW: Tensor, seconds: float) -> float:
    """Inference by the clock: batches for about `seconds` after one to warm up, the median of their speeds."""
    model.eval()
    speeds: list[float] = []
    with torch.inference_mode():
        _timed(model, x_NCHW)
        end = time.monotonic() + seconds
        while not speeds or time.monotonic() < end:
            speeds.append(len(x_NCHW) / _timed(model, x_NCHW))
    return statistics.median(speeds)


def _timed(model: Any, x_NCHW: Tensor) -> float:
    began = time.perf_counter()
    model(x_NCHW)
    if x_NCHW.is_cuda:
        torch.cuda.synchronize()
    return max(time.perf_counter() - began, 1e-9)
