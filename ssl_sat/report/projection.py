"""Features in two dimensions: PCA to 50, then UMAP (McInnes et al. 2018) with the settings of the study.

Distances in such a picture mean little beyond the neighbourhoods: `trustworthiness` says how far these were kept.
"""

# N samples, D features, P principal components, k neighbours

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.spec import UserError

_COMPONENTS = 50
_CELLS = 2**24  # similarities held at once


def project(
    features_ND: NDArray[np.floating[Any]],
    *,
    seed: int,
    neighbours: int = 15,
    min_dist: float = 0.1,
) -> NDArray[np.float32]:
    """Return UMAP coordinates (N, 2) of all samples together, cosine distance; the same seed gives the same picture.

    Fewer neighbours are used when there are fewer samples. Raises UserError below 10 samples.
    """
    if len(features_ND) < 10:
        raise UserError(f"a UMAP needs at least 10 samples, there are {len(features_ND)}; choose more (samples=...)")
    x_NP = principal_components(features_ND, _COMPONENTS)
    count = min(neighbours, len(x_NP) - 1)
    near_Nk, distance_Nk = cosine_neighbours(x_NP, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap warns of its single thread and of the missing search index: both wanted
        import umap

        model = umap.UMAP(
            n_neighbors=count,
            min_dist=min_dist,
            metric="cosine",
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(near_Nk, distance_Nk, None),
        )
        return np.asarray(model.fit_transform(x_NP), dtype=np.float32)


def principal_components(features_ND: NDArray[np.floating[Any]], count: int) -> NDArray[np.float32]:
    """Centred features in their first principal components (at most `count`); signs fixed, so that runs agree."""
    x_ND = np.asarray(features_ND, dtype=np.float64)
    x_ND = x_ND - x_ND.mean(axis=0)
    _, vectors_DD = np.linalg.eigh(x_ND.T @ x_ND)
    vectors_DP = vectors_DD[:, ::-1][:, : min(count, *x_ND.shape)]
    largest_P = np.abs(vectors_DP).argmax(axis=0)
    signs_P = np.sign(vectors_DP[largest_P, np.arange(vectors_DP.shape[1])])
    return (x_ND @ (vectors_DP * signs_P)).astype(np.float32)


def cosine_neighbours(x_NP: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Exact k nearest samples by cosine distance, the sample itself first: indices and distances, (N, k)."""
    import torch

    unit_NP = torch.nn.functional.normalize(torch.from_numpy(np.ascontiguousarray(x_NP, dtype=np.float32)), dim=1)
    step = max(1, _CELLS // len(unit_NP))
    near, distance = [], []
    for start in range(0, len(unit_NP), step):
        cosine_NM = unit_NP[start : start + step] @ unit_NP.T
        rows = torch.arange(len(cosine_NM))
        cosine_NM[rows, start + rows] = 2.0  # itself first, whatever the rounding
        found = cosine_NM.topk(k, dim=1)
        near.append(found.indices)
        distance.append((1 - found.values).clamp(min=0))
    return torch.cat(near).numpy().astype(np.int32), torch.cat(distance).numpy()


def trustworthiness(
    features_ND: NDArray[np.floating[Any]], xy_N2: NDArray[np.floating[Any]], *, seed: int, neighbours: int = 15
) -> float:
    """Trustworthiness (Venna & Kaski 2001) of at most 2,000 samples; 1 = neighbours in the picture are neighbours."""
    from sklearn.manifold import trustworthiness as of_sklearn

    at_M = np.random.default_rng(seed).permutation(len(features_ND))[:2000]
    count = min(neighbours, (len(at_M) - 1) // 2)
    return float(of_sklearn(features_ND[at_M], xy_N2[at_M], n_neighbors=count, metric="cosine"))
