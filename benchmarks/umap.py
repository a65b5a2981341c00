"""Maps of features: ours (components, exact neighbours, a graph handed to umap-learn) against umap-learn alone.

    python -m benchmarks.umap            # 27,000 x 2,048, the size of EuroSAT under a ResNet-50
    python -m benchmarks.umap --quick

Both sides have 15 neighbours, min_dist 0.1, cosine distance and a seed (one thread), or no seed and all threads of the
run. A faster map that is a worse one would be no gain: trustworthiness of both is measured on the same samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.harness import Bench, Gate, Task, ratios
from ssl_sat.report.faithful import faithfulness
from ssl_sat.report.projection import project

_PEER = "umap-learn UMAP(metric='cosine')"
_NEEDS = ("umap",)
GATES = (
    Gate("map of 27,000 x 2,048, seeded", 1.3, ">=", "x faster", _PEER, _NEEDS),
    Gate("map of 27,000 x 2,048, loss of trustworthiness", 0.01, "<=", "absolute", _PEER, _NEEDS),
)
_MEASURED = 4000  # samples that trustworthiness is measured on


def features(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Rectified features of ten classes whose spectrum falls like a network's: a latent of 40 through random layers."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1.6, (10, 40))
    z = centres[rng.integers(0, 10, count)] + rng.normal(0, 1, (count, 40)) * 0.9 ** np.arange(40)
    hidden = np.maximum(z @ rng.normal(0, 1 / np.sqrt(40), (40, 256)), 0)
    x = hidden @ rng.normal(0, 1 / np.sqrt(256), (256, dim)) + rng.normal(0, 0.05, (count, dim))
    return np.maximum(x, 0).astype(np.float32)


def ours(x_ND: NDArray[np.float32], seeded: bool) -> Callable[[], NDArray[np.float32]]:
    """The map of ssl_sat."""
    return lambda: project(x_ND, seed=0, layout="seeded" if seeded else "fast")


def plain(x_ND: NDArray[np.float32], seeded: bool) -> Callable[[], NDArray[np.float32]]:
    """The map of umap-learn alone."""

    def run() -> NDArray[np.float32]:
        import umap

        options: dict[str, Any] = {"random_state": 0, "n_jobs": 1} if seeded else {"n_jobs": -1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return umap.UMAP(n_neighbors=15, min_dist=0.1, metric="cosine", **options).fit_transform(x_ND)

    return run


def run(bench: Bench, folder: Path) -> None:
    """Times side by side, and how far each map can be trusted."""
    if not bench.can(*(gate.name for gate in GATES)):
        return
    if bench.threads:
        import numba

        numba.set_num_threads(min(bench.threads, numba.config.NUMBA_NUM_THREADS))
    _compile()
    x_ND = features(bench.size(27_000, 1_500), bench.size(2_048, 600))
    for seeded in (True, False):
        how = "seeded" if seeded else "fast"
        maps: dict[str, NDArray[np.float32]] = {}
        tasks = {
            name: Task(1, _kept(maps, name, make(x_ND, seeded)), warm_up=False)
            for name, make in (("ours", ours), ("umap-learn", plain))
        }
        times = bench.time(tasks, rounds=bench.rounds if bench.quick else min(bench.rounds, 3))
        found = ratios(times, "umap-learn", "ours")
        if seeded and not bench.quick:
            bench.gate(GATES[0].name, found)
        else:
            bench.figure(f"map of {len(x_ND):,} x {x_ND.shape[1]:,}, {how}", found, "x faster", f"against {_PEER}")
        if seeded:
            _trust(bench, x_ND, maps)


def _kept(maps: dict[str, NDArray[np.float32]], name: str, make: Callable[[], Any]) -> Callable[[], None]:
    def task() -> None:
        maps[name] = make()

    return task


def _compile() -> None:
    """Both sides' compiled code, before anything is timed."""
    x_ND = features(400, 600)
    for seeded in (True, False):
        for make in (ours, plain):
            make(x_ND, seeded)()


def _trust(bench: Bench, x_ND: NDArray[np.float32], maps: dict[str, NDArray[np.float32]]) -> None:
    at_M = np.random.default_rng(1).permutation(len(x_ND))[:_MEASURED]
    trust = {name: faithfulness(x_ND[at_M], xy[at_M]).trustworthiness for name, xy in maps.items()}
    for name, value in trust.items():
        bench.figure(f"trustworthiness of the seeded map, {name}", value, "of 1", f"{len(at_M):,} samples")
    if not bench.quick:
        bench.gate(GATES[1].name, trust["umap-learn"] - trust["ours"])


if __name__ == "__main__":
    harness.main("umap", __doc__, GATES, run)
