"""DCL, the decoupled contrastive loss (Yeh et al. 2022, equation 6): NT-Xent without the positive in the denominator.

For each of the 2N views i with partner p(i), all views k of other patches as candidates, s the cosine similarity:

    l(i) = -s_i,p(i) / tau + log( sum_{k not in {i, p(i)}} exp(s_ik / tau) ),    loss = mean over the 2N views

In NT-Xent the gradient is scaled by the share of the denominator that the negatives hold, which vanishes for easy
positives in small batches; here it is not. The weights of the paper's variant DCLW are left out.

Legend: N pairs (patches), V views, D features.
"""

from __future__ import annotations

import math

from torch import Tensor

from ssl_sat.losses.contrastive import contrastive


def dcl(z_VND: Tensor, temperature: float, *, gather: bool = False) -> Tensor:
    """Return the DCL loss, a scalar, as the mean over all V * N embeddings.

    Shapes, precision, more than two views and `gather` as in `nt_xent`; memory grows linearly with N. Raises
    ValueError for a single patch, which has no negatives.
    """
    return contrastive(z_VND, temperature, decoupled=True, gather=gather)


def dcl_floor(num_pairs: int, temperature: float, views: int = 2) -> float:
    """Return the smallest value DCL can take: N patches at the corners of a regular simplex (needs D >= N - 1)."""
    return dcl_collapse(num_pairs, views) - num_pairs / ((num_pairs - 1) * temperature)


def dcl_collapse(num_pairs: int, views: int = 2) -> float:
    """Return the value of DCL when all embeddings are equal: log(V (N - 1)), whatever the temperature."""
    return math.log(views * (num_pairs - 1))
