"""How far a map can be read: what it kept of the neighbourhoods, and what it made up.

    found = faithfulness(features_ND, xy_N2)
    found.trustworthiness        # are neighbours on the map neighbours in the features? (Venna & Kaski 2001)
    found.continuity             # are neighbours in the features neighbours on the map?
    found.kept_K                 # share of the k nearest that are the same in both, for k of SIZES
    found.kept_N                 # the same for each sample, at `neighbours`

Distance in the features is cosine distance of centred features, as in `ssl_sat.report.projection`, in all D
dimensions and not in the components that the map was made of. Everything is exact over all samples.
"""  # fmt: skip

# N samples, B of a block, D features, k neighbours

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100)
_CELLS = 2**22


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """sizes_K: the numbers of neighbours that `kept_K` is of; chance_K: what a map at random keeps.

    near_Nk, beside_Nk: the k nearest samples in the features and on the map, nearest first.
    """

    neighbours: int
    trustworthiness: float
    continuity: float
    sizes_K: tuple[int, ...]
    kept_K: NDArray[np.float64]
    chance_K: NDArray[np.float64]
    kept_N: NDArray[np.float32]
    near_Nk: NDArray[np.int32]
    beside_Nk: NDArray[np.int32]

    @property
    def kept(self) -> float:
        """Share of the nearest neighbours that the map kept."""
        return float(self.kept_N.mean())


def faithfulness(
    features_ND: NDArray[np.floating[Any]], xy_N2: NDArray[np.floating[Any]], *, neighbours: int = 15
) -> Faithfulness:
    """Compare the neighbourhoods of features and map; at most two thirds of the samples are neighbours."""
    import torch

    count = len(features_ND)
    k = max(1, min(neighbours, (2 * count - 2) // 3 - 1))
    sizes = tuple(size for size in SIZES if size < count)
    most = max(k, sizes[-1])
    unit_ND = _centred_units(features_ND)
    map_N2 = torch.from_numpy(np.ascontiguousarray(xy_N2, dtype=np.float64))
    step = max(1, _CELLS // count)
    intruders = losses = 0.0
    kept_sizes = np.zeros(len(sizes))
    kept_parts, near_parts, beside_parts = [], [], []
    for start in range(0, count, step):
        far_BN = 1.0 - unit_ND[start : start + step] @ unit_ND.T
        apart_BN = torch.cdist(map_N2[start : start + step], map_N2)
        rows = torch.arange(len(far_BN))
        for block in (far_BN, apart_BN):
            block[rows, start + rows] = torch.inf
        near, beside = (block.topk(most, dim=1, largest=False).indices for block in (far_BN, apart_BN))
        intruders += _excess(far_BN, beside[:, :k], k)
        losses += _excess(apart_BN, near[:, :k], k)
        both = (near[:, :, None] == beside[:, None, :]).to(torch.int32).cumsum(1).cumsum(2)
        kept_sizes += [float(both[:, size - 1, size - 1].sum()) / size for size in sizes]
        kept_parts.append(both[:, k - 1, k - 1].numpy() / k)
        near_parts.append(near[:, :k].numpy())
        beside_parts.append(beside[:, :k].numpy())
    scale = 2.0 / (count * k * (2 * count - 3 * k - 1))
    return Faithfulness(
        k, 1.0 - scale * intruders, 1.0 - scale * losses, sizes, kept_sizes / count, np.array(sizes) / (count - 1),
        np.concatenate(kept_parts).astype(np.float32), np.concatenate(near_parts).astype(np.int32),
        np.concatenate(beside_parts).astype(np.int32),
    )  # fmt: skip


def same_group(groups_N: NDArray[np.integer[Any]], near_Nk: NDArray[np.integer[Any]]) -> float | None:
    """Share of the neighbours that are of the sample's own group, over samples that have one (>= 0); None without."""
    known_N = groups_N >= 0
    if not known_N.any():
        return None
    return float((groups_N[near_Nk[known_N]] == groups_N[known_N][:, None]).mean())


def among_others(marked_N: NDArray[np.bool_], near_Nk: NDArray[np.integer[Any]]) -> float | None:
    """Share of the marked samples' neighbours that are not marked: how far one set lies within the other."""
    return float((~marked_N[near_Nk[marked_N]]).mean()) if marked_N.any() else None


def _centred_units(features_ND: NDArray[np.floating[Any]]) -> Any:
    import torch

    x_ND = torch.from_numpy(np.asarray(features_ND, np.float32).copy())
    x_ND -= x_ND.mean(0, dtype=torch.float64).float()
    return torch.nn.functional.normalize(x_ND, dim=1)


def _excess(distance_BN: Any, chosen_Bk: Any, k: int) -> float:
    """Sum of max(0, rank - k) of the chosen samples, rank 1 being the nearest."""
    total = 0.0
    for column in range(chosen_Bk.shape[1]):
        own_B1 = distance_BN.gather(1, chosen_Bk[:, column : column + 1])
        rank_B = (distance_BN < own_B1).sum(1) + 1
        total += float((rank_B - k).clamp(min=0).sum())
    return total
