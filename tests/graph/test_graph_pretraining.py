"""The table of pretraining runs: means over seeds from metrics, cost beside SimCLR under the same circumstances."""

import math

import pytest

from ssl_sat.graph.collect import Finished
from ssl_sat.graph.plan import Node
from ssl_sat.graph.pretraining import pretraining_rows


def run(
    node: str, method: str, seed: int, knn: float, rate: float, encoder: str = "resnet18", host: str = "a"
) -> Finished:
    config = {"method": {"name": method}, "encoder": {"name": encoder}, "image_size": 32, "batch_size": 128}
    about = Node(
        f"{node}-seed{seed}", node, "pretrain", {"seed": seed}, [], {}, f"/{node}", f"{seed}{node:_<9}", {"data": "d"},
        False, "done", config, [],
    )  # fmt: skip
    metrics = {"knn_accuracy": knn, "knn_accuracy_untrained": 0.5, "linear_accuracy": knn, "watched_patches": 300}
    metrics |= {"knn_accuracy_gain": knn - 0.5, "linear_accuracy_untrained": 0.5, "linear_accuracy_gain": knn - 0.5}
    return Finished(about, metrics, {"hostname": host, "device": {}, "speed": {"images_per_second": rate}})


def test_seeds_are_gathered_and_costs_are_ratios():
    items = [run("simclr", "simclr", seed, 0.6 + 0.1 * seed, 100.0) for seed in (0, 1)]
    items += [run("byol", "byol", seed, 0.4, rate) for seed, rate in enumerate((50.0, 40.0, 10.0))]
    simclr, byol = pretraining_rows(items)
    assert (simclr["method"], simclr["seeds"], simclr["cost / SimCLR"]) == ("simclr", 2, 1.0)
    assert simclr["knn"].startswith("0.650") and f"{math.sqrt(0.005):.3f}" in simclr["knn"]
    assert (byol["seeds"], byol["cost / SimCLR"]) == (3, pytest.approx(2.5))  # the median of 2, 2.5 and 10
    assert "0.400" in byol["knn"] and "0.500" in byol["knn untrained"]  # worse than untrained, and it says so
    gain = simclr["knn gain"]  # of two seeds: t = 12.706 times 0.1 / 2, half their distance
    assert gain.value == pytest.approx(0.15) and gain.high - gain.value == pytest.approx(12.7062 * 0.05, rel=1e-4)


def test_other_circumstances_are_not_compared():
    items = [run("simclr", "simclr", 0, 0.6, 100.0), run("mae", "mae", 0, 0.6, 50.0, encoder="vit_tiny")]
    items += [run("far", "byol", 0, 0.6, 50.0, host="b"), run("vit", "simclr", 0, 0.6, 25.0, encoder="vit_tiny")]
    costs = {row["runs"]: row["cost / SimCLR"] for row in pretraining_rows(items)}
    assert costs == {"simclr": 1.0, "mae": 0.5, "far": None, "vit": 1.0}


def test_runs_that_were_not_watched_have_no_row():
    unwatched = run("simclr", "simclr", 0, 0.6, 100.0)
    unwatched.metrics.clear()
    assert pretraining_rows([unwatched]) == []
