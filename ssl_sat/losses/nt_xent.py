"""NT-Xent, the loss of SimCLR (Chen et al. 2020, equation 1 and algorithm 1).

For each of the 2N views i with partner p(i), all views k != i as candidates and s the cosine similarity:

    l(i) = -log( exp(s_i,p(i) / tau) / sum_{k != i} exp(s_ik / tau) ),    loss = mean over the 2N views

How this differs from a literal transcription: the (2N, 2N) matrix is never stored (see `tiles`), so memory grows
linearly with N. With V > 2 views, l(i) is the mean over the V - 1 partners (Khosla et al. 2020, equation 2, each patch
a class of its own).

Legend: N pairs (patches), V views, D features.
"""

from __future__ import annotations

import math

from torch import Tensor

from ssl_sat.losses.contrastive import contrastive


def nt_xent(z_VND: Tensor, temperature: float, *, gather: bool = False) -> Tensor:
    """Return the NT-Xent loss, a scalar, as the mean over all V * N embeddings.

    `z_VND` (V, N, D), V = 2 in the paper, needs no normalisation: it is L2-normalised here. Similarities are float32
    even under autocast and for 16-bit input, float64 for float64 input. With `gather` and a process group, the
    embeddings of all processes are candidates; the value is then the mean over this process's rows, and the gradients
    of a DistributedDataParallel model, which averages over processes, equal those of the global loss exactly. Every
    process must bring the same N.
    """
    return contrastive(z_VND, temperature, decoupled=False, gather=gather)


def nt_xent_floor(num_pairs: int, temperature: float, views: int = 2) -> float:
    """Return the smallest value NT-Xent can take: N patches at the corners of a regular simplex (needs D >= N - 1)."""
    if num_pairs < 2:
        return math.log(views - 1)
    gap = num_pairs / ((num_pairs - 1) * temperature)
    return math.log(views - 1) + math.log1p(views * (num_pairs - 1) * math.exp(-gap) / (views - 1))


def nt_xent_collapse(num_pairs: int, views: int = 2) -> float:
    """Return the value of NT-Xent when all embeddings are equal: log(V N - 1), log(2N - 1) for two views."""
    return math.log(views * num_pairs - 1)
