"""Measures of collapse: it hides in a falling loss, so these are logged beside it from step 0.

Legend: N patches, V views, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def rankme(z_ND: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the effective rank, exp of the entropy of the normalised singular values, between 1 and min(N, D).

    RankMe (Garrido et al. 2023, equation 1), without centring, as there. Costs an SVD: for epochs, not steps.
    """
    share = torch.linalg.svdvals(z_ND.float() if z_ND.dtype != torch.float64 else z_ND)
    share = share / share.sum() + eps
    return torch.exp(-(share * share.log()).sum())


@torch.no_grad()
def embedding_std(z_ND: Tensor) -> Tensor:
    """Return the standard deviation of unit embeddings over patches, mean over features, times sqrt(D).

    1 for directions spread evenly over the sphere, 0 at collapse (Chen & He 2021, figure 2, there without sqrt(D)).
    """
    u_ND = functional.normalize(z_ND.float(), dim=-1)
    return u_ND.std(dim=0, correction=0).mean() * u_ND.shape[1] ** 0.5


@torch.no_grad()
def pair_similarities(z_VND: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean cosine similarity of positive pairs and of negative pairs, in O(V N D): no matrix is built."""
    u_VND = functional.normalize(z_VND.float(), dim=-1)
    views, patches, _ = u_VND.shape
    same_N = u_VND.sum(0).square().sum(-1)  # V self-similarities and every ordered pair of views
    positives = (same_N.mean() - views) / (views * (views - 1))
    negatives = u_VND.sum((0, 1)).square().sum() - same_N.sum()
    return positives, negatives / max(views**2 * patches * (patches - 1), 1)
