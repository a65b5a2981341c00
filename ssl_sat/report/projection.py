"""Features in two dimensions: principal components, exact neighbours, then UMAP, t-SNE or nothing more.

    xy_N2 = project(features_ND, seed=0)
    before, after = layouts([features_before_ND, features_after_ND], seed=0)      # one layout, two maps

UMAP (McInnes et al. 2018) is given the exact neighbours of the components, so that it searches nothing. It starts from
the first two components and not from a spectral embedding: the start decides what a map keeps of the large structure,
and this one is both faster and repeatable (Kobak & Linderman 2021, doi:10.1038/s41587-020-00809-z).

Several states of the same samples (before and after training) get *one* layout: a map of the mean of their neighbour
graphs is drawn first, and each state's own map starts from it, so that what moves has moved for that state's sake.
`layout="seeded"` runs in one thread and gives the same picture every time; `"fast"` uses all threads and does not.

Distances in such a picture mean little beyond the neighbourhoods: `ssl_sat.report.faithful` says how far these were
kept.
"""  # fmt: skip

# N samples, D features, P principal components, k neighbours, S states

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssl_sat.seeding import key
from ssl_sat.spec import UserError

Method = Literal["umap", "pca", "tsne"]
Layout = Literal["seeded", "fast"]
Array = NDArray[np.floating[Any]]

_COMPONENTS = 50
_EXACT = 512  # features up to which components come from the full covariance
_EXTRA, _POWERS = 14, 3  # of the subspace iteration (Halko et al. 2011, algorithm 4.4)
_CELLS = 2**24  # similarities held at once
_FEWEST = 10
_MOVED_EPOCHS = 200  # of a state that starts from the common layout
_SPREAD = 1e-4  # deviation of a t-SNE's start (Kobak & Berens 2019)


def project(
    features_ND: Array,
    *,
    seed: int,
    neighbours: int = 15,
    min_dist: float = 0.1,
    method: Method = "umap",
    layout: Layout = "seeded",
) -> NDArray[np.float32]:
    """Return coordinates (N, 2) of all samples together, by cosine distance of centred features.

    Fewer neighbours are used when there are fewer samples. Raises UserError below 10 samples.
    """
    options = {"neighbours": neighbours, "min_dist": min_dist, "method": method, "layout": layout}
    return layouts([features_ND], seed=seed, **options)[0]  # type: ignore[arg-type]


def layouts(
    states: Sequence[Array],
    *,
    seed: int,
    neighbours: int = 15,
    min_dist: float = 0.1,
    method: Method = "umap",
    layout: Layout = "seeded",
) -> list[NDArray[np.float32]]:
    """Return coordinates (N, 2) for each state (N, D_s) of the same N samples, in one common layout."""
    counts = {len(x) for x in states}
    if len(counts) != 1:
        raise ValueError(f"states of different numbers of samples: {sorted(counts)}")
    (count,) = counts
    if count < _FEWEST:
        raise UserError(f"a map needs at least {_FEWEST} samples, there are {count}; choose more (max_points=...)")
    parts = [principal_components(x, _COMPONENTS) for x in states]
    start_N2 = common_start(parts)
    if method == "pca":
        return [aligned(two_components(x), start_N2) for x in parts]
    if method == "tsne":
        found = [_tsne(x, start_N2, seed, neighbours, layout) for x in parts]
        return [aligned(xy, found[-1]) for xy in found]
    return _umap(parts, start_N2, seed, min(neighbours, count - 1), min_dist, layout)


def _umap(
    parts: Sequence[NDArray[np.float32]], start_N2: Array, seed: int, k: int, min_dist: float, layout: Layout
) -> list[NDArray[np.float32]]:
    graphs = [neighbour_graph(*cosine_neighbours(x, k)) for x in parts]
    common = optimised(sum(graphs[1:], graphs[0]) / len(graphs), start_N2, seed, min_dist, layout)
    if len(graphs) == 1:
        return [common]
    own = [optimised(graph, common, seed, min_dist, layout, _MOVED_EPOCHS) for graph in graphs]
    return [aligned(xy, common) for xy in own]


def neighbour_graph(near_Nk: NDArray[np.int32], distance_Nk: NDArray[np.float32]) -> Any:
    """UMAP's weighted graph of exact neighbours: a symmetric sparse matrix (N, N)."""
    with _quiet():
        from umap.umap_ import fuzzy_simplicial_set

        x_NP = np.empty((len(near_Nk), 1), np.float32)  # only its length is read where the neighbours are given
        given = {"knn_indices": near_Nk, "knn_dists": distance_Nk}
        graph, _, _ = fuzzy_simplicial_set(x_NP, near_Nk.shape[1], None, "cosine", **given)
        return graph


def optimised(
    graph: Any, start_N2: Array, seed: int, min_dist: float, layout: Layout, epochs: int | None = None
) -> NDArray[np.float32]:
    """UMAP's layout of a graph from a given start; `epochs` None takes the library's own number (500, or 200)."""
    with _quiet():
        from umap.umap_ import find_ab_params, simplicial_set_embedding

        a, b = find_ab_params(1.0, min_dist)
        random_state = np.random.RandomState(seed if layout == "seeded" else None)
        xy_N2, _ = simplicial_set_embedding(
            None, graph.tocoo(), 2, 1.0, a, b, 1.0, 5, epochs, np.asarray(start_N2, np.float32), random_state,
            "cosine", {}, False, {}, False, parallel=layout == "fast",
        )  # fmt: skip
    return np.asarray(xy_N2, np.float32)


def _tsne(x_NP: NDArray[np.float32], start_N2: Array, seed: int, k: int, layout: Layout) -> NDArray[np.float32]:
    """t-SNE (van der Maaten & Hinton 2008) of scikit-learn, perplexity 2 k, from the common start."""
    from sklearn.manifold import TSNE

    unit_NP = x_NP / np.maximum(np.linalg.norm(x_NP, axis=1, keepdims=True), 1e-12)  # euclidean order = cosine order
    start = (start_N2 / start_N2[:, 0].std() * _SPREAD).astype(np.float32)
    perplexity = min(2.0 * k, (len(x_NP) - 1) / 3)
    jobs = 1 if layout == "seeded" else -1
    model = TSNE(2, perplexity=perplexity, init=start, random_state=seed, n_jobs=jobs)
    return np.asarray(model.fit_transform(unit_NP), np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """umap warns of its single thread and of the missing search index: both are wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def common_start(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The first two components of all states side by side, each state with the same weight; largest value 10."""
    sides = [x / max(float(np.linalg.norm(x)), 1e-12) for x in parts]
    xy_N2 = two_components(np.concatenate(sides, axis=1)) if len(sides) > 1 else two_components(parts[0])
    return (xy_N2 * (10.0 / max(float(np.abs(xy_N2).max()), 1e-12))).astype(np.float32)


def two_components(x_NP: Array) -> NDArray[np.float32]:
    """The first two principal components; a second column of zeros where there is one only."""
    xy = principal_components(x_NP, 2)
    return xy if xy.shape[1] == 2 else np.concatenate([xy, np.zeros_like(xy)], axis=1)


def principal_components(features_ND: Array, count: int) -> NDArray[np.float32]:
    """Centred features in their first principal components (at most `count`); signs fixed, so that runs agree.

    Exact up to 512 features; of more, by subspace iteration from a fixed start (Halko et al. 2011, algorithm 4.4).
    """
    x_ND = np.asarray(features_ND)
    if x_ND.shape[1] <= _EXACT:
        x_ND = x_ND.astype(np.float64)
        x_ND = x_ND - x_ND.mean(axis=0)
        _, vectors_DD = np.linalg.eigh(x_ND.T @ x_ND)
        vectors_DP = vectors_DD[:, ::-1][:, : min(count, *x_ND.shape)]
    else:
        x_ND = x_ND.astype(np.float32)
        x_ND -= x_ND.mean(axis=0)
        vectors_DP = _leading_directions(x_ND, min(count, *x_ND.shape))
    largest_P = np.abs(vectors_DP).argmax(axis=0)
    signs_P = np.sign(vectors_DP[largest_P, np.arange(vectors_DP.shape[1])])
    return (x_ND @ (vectors_DP * signs_P).astype(x_ND.dtype)).astype(np.float32)


def _leading_directions(x_ND: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The leading right singular vectors (D, P) of centred data."""
    size = min(count + _EXTRA, *x_ND.shape)
    generator = np.random.Generator(np.random.Philox(key=key(0, "components")))
    basis_DP = generator.standard_normal((x_ND.shape[1], size), dtype=np.float32)
    for _ in range(_POWERS):
        basis_DP, _ = np.linalg.qr(x_ND.T @ (x_ND @ basis_DP))
    y_NP = x_ND @ basis_DP
    _, rotation_PP = np.linalg.eigh(y_NP.T.astype(np.float64) @ y_NP)
    return (basis_DP @ rotation_PP[:, ::-1][:, :count].astype(np.float32)).astype(np.float32)


def aligned(xy_N2: Array, to_N2: Array) -> NDArray[np.float32]:
    """Turned, mirrored and shifted, not scaled, so that the points come nearest to those of `to` (Procrustes)."""
    x, y = np.asarray(xy_N2, np.float64), np.asarray(to_N2, np.float64)
    centre_x, centre_y = x.mean(axis=0), y.mean(axis=0)
    left, _, right = np.linalg.svd((x - centre_x).T @ (y - centre_y))
    return ((x - centre_x) @ (left @ right) + centre_y).astype(np.float32)


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
