"""The arithmetic of the benchmarks, and that they run and write what they promise. Nothing here asserts on a time."""

from __future__ import annotations

import datetime
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import harness, report
from benchmarks.harness import Bench, Gate, Task, interleaved, ratios

ROOT = Path(__file__).resolve().parents[2]
FASTER = Gate("speed", 4.0, ">=", "x faster", "a peer", on_cuda=2.0)
SMALLER = Gate("error", 1e-6, "<=", "absolute", "an oracle")
ABSENT = Gate("other", 1.0, ">=", "x faster", "nobody", needs=("json", "no_such_module_at_all"))
FIELDS = {"gate", "measured", "demanded", "met", "unit", "against", "machine", "date"}


class Ticks:
    """A clock that says how long a run took, from a list: the n-th run of the n-th round."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.at = seconds, 0

    def __call__(self, run) -> float:
        run()
        self.at += 1
        return self.seconds[self.at - 1]


def test_rounds_are_interleaved_in_a_turning_order_after_a_warm_up():
    called: list[str] = []
    tasks = {name: Task(1, lambda name=name: called.append(name)) for name in "abc"}
    interleaved(tasks, 3, Ticks([1.0] * 9))
    assert "".join(called) == "abc" + "abc" + "bca" + "cab"


def test_untimed_preparation_comes_before_every_run():
    called: list[str] = []
    task = Task(1, lambda: called.append("run"), lambda: called.append("before"), warm_up=False)
    interleaved({"a": task}, 2, Ticks([1.0, 1.0]))
    assert called == ["before", "run", "before", "run"]


def test_seconds_are_per_item_and_ratios_within_a_round():
    tasks = {"slow": Task(2, lambda: None), "fast": Task(10, lambda: None)}
    # round 0: slow 8 s, fast 10 s; round 1, turned: fast 20 s, slow 6 s; round 2: slow 12 s, fast 10 s
    times = interleaved(tasks, 3, Ticks([8.0, 10.0, 20.0, 6.0, 12.0, 10.0]))
    assert times == {"slow": [4.0, 3.0, 6.0], "fast": [1.0, 2.0, 1.0]}
    assert ratios(times, "slow", "fast") == [4.0, 1.5, 6.0]
    bench = Bench("b", (FASTER,))
    bench.gate("speed", ratios(times, "slow", "fast"))
    (row,) = bench.rows
    assert (row["measured"], row["spread"], row["rounds"], row["met"]) == (4.0, [1.5, 6.0], 3, True)


@pytest.mark.parametrize(
    "gate, value, device, met",
    [
        (FASTER, 4.0, "cpu", True), (FASTER, 3.99, "cpu", False), (FASTER, 3.99, "cuda", True),
        (SMALLER, 1e-6, "cpu", True), (SMALLER, 1.1e-6, "cpu", False), (SMALLER, math.nan, "cpu", False),
        (FASTER, math.nan, "cpu", False),
    ],
)  # fmt: skip
def test_a_gate_is_met_on_the_right_side(gate, value, device, met):
    assert gate.met(value, device) is met


def test_what_was_not_run_says_why_and_is_not_met():
    bench = Bench("b", (FASTER, SMALLER, ABSENT))
    assert not bench.can("other")
    bench.gate("error", 0.0)
    bench.close("it fell over")
    rows = {row["gate"]: row for row in bench.rows}
    assert rows["error"]["met"] is True and "reason" not in rows["error"]
    assert rows["speed"] | {"measured": None, "met": None, "reason": "it fell over"} == rows["speed"]
    assert "no_such_module_at_all" in rows["other"]["reason"] and "json" not in rows["other"]["reason"]
    text = report.table(bench.rows, bench.figures)
    assert "1 of 1 measured gates met, 2 not run" in text and "not run: it fell over" in text


def test_the_quick_mode_of_a_benchmark_writes_a_well_formed_file(tmp_path):
    line = [sys.executable, "-m", "benchmarks", "--quick", "--only", "views", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "gates.json").read_text())
    assert {row["gate"] for row in rows} == {gate.name for gate in _views_gates()}
    for row in rows:
        assert set(row) >= FIELDS and row["quick"] is True and "torch" in row["versions"]
        assert datetime.datetime.fromisoformat(row["date"]).tzinfo is not None
        if row["measured"] is None:
            assert row["met"] is None and row["reason"]
        else:
            assert math.isfinite(row["measured"]) and row["spread"][0] <= row["measured"] <= row["spread"][1]
    assert next(row for row in rows if row["gate"] == "crop error")["met"] is True
    assert "GATE" in done.stdout and "QUICK" in done.stdout
    assert {"figure", "measured", "unit"} <= set(json.loads((tmp_path / "figures.json").read_text())[0])


def _views_gates() -> tuple[Gate, ...]:
    from benchmarks import views

    return views.GATES


def test_a_benchmark_that_dies_leaves_its_gates_as_not_run(tmp_path):
    line = [sys.executable, "-m", "benchmarks", "--quick", "--only", "views", "--out", str(tmp_path)]
    done = subprocess.run(
        [*line, "--device", "cuda"], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 1
    rows = json.loads((tmp_path / "gates.json").read_text())
    assert rows and all(row["measured"] is None and row["met"] is None and row["reason"] for row in rows)


def test_an_unknown_benchmark_is_refused(tmp_path):
    line = [sys.executable, "-m", "benchmarks", "--only", "nothing", "--out", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "no benchmark nothing" in done.stderr


def test_the_machine_is_described_without_its_name():
    import platform

    assert "cores" in harness.machine() and platform.node() not in harness.machine()
