"""What all benchmarks share: gates, interleaved timing, rows of gates.json.

Machines are noisy and change; ratios last. Every task is run once in every round, the order turns from round to round,
a ratio is formed within each round, and the median over rounds is reported with its smallest and largest value.
A gate is measured or said not to have been run, with the reason; nothing here takes a figure that a person typed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

VERSIONS = (
    "ssl-sat", "torch", "torchvision", "numpy", "numba", "timm", "rasterio", "lightly", "torchgeo", "kornia", "lmdb",
    "safetensors", "pytorch-lightning", "pytorch-ood", "scikit-learn", "scipy",
)  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """A demand on a measured number. `on_cuda` replaces `demanded` there; `needs` are the peer's modules."""

    name: str
    demanded: float
    sense: Literal[">=", "<="]
    unit: str
    against: str
    needs: tuple[str, ...] = ()
    on_cuda: float | None = None

    def demand(self, device: str) -> float:
        """What is asked for on this device."""
        return self.on_cuda if device == "cuda" and self.on_cuda is not None else self.demanded

    def met(self, measured: float, device: str) -> bool:
        """Whether a measurement passes; one that is not a number never does."""
        limit = self.demand(device)
        return measured >= limit if self.sense == ">=" else measured <= limit

    def absent(self) -> str | None:
        """Why the gate cannot be measured here: a module of the peer that is not installed."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(missing)} (pip install -e '.[bench]')" if missing else None


@dataclass(frozen=True)
class Task:
    """`run` handles `items` items; `before` is done ahead of each timed run and is not timed."""

    items: int
    run: Callable[[], Any]
    before: Callable[[], Any] | None = None
    warm_up: bool = True


Times = dict[str, list[float]]  # seconds an item, one per round


def interleaved(tasks: Mapping[str, Task], rounds: int, clock: Callable[[Callable[[], Any]], float]) -> Times:
    """Time every task once a round, in an order that turns by one; seconds an item. `clock(run)` returns seconds."""
    names = list(tasks)
    for name in names:
        if tasks[name].warm_up:
            _prepared(tasks[name])
            tasks[name].run()
    times: Times = {name: [] for name in names}
    for round_ in range(rounds):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            _prepared(tasks[name])
            times[name].append(clock(tasks[name].run) / tasks[name].items)
    return times


def _prepared(task: Task) -> None:
    if task.before is not None:
        task.before()


def ratios(times: Times, slower: str, faster: str) -> list[float]:
    """How many times faster the second is than the first, round by round."""
    return [slow / fast for slow, fast in zip(times[slower], times[faster], strict=True)]


def wall_seconds(run: Callable[[], Any]) -> float:
    """Seconds on the wall clock; on CUDA use `cuda_seconds`."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def cpu_seconds(run: Callable[[], Any]) -> float:
    """Seconds of processor time of this process: for trying things out on a machine that others use."""
    began = time.process_time()
    run()
    return time.process_time() - began


def cuda_seconds(run: Callable[[], Any]) -> float:
    """Seconds between two CUDA events around the run, the device idle before and finished after."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000.0


@dataclass
class Bench:
    """One benchmark's run: its options, and the rows it has found."""

    name: str
    gates: tuple[Gate, ...]
    quick: bool = False
    rounds: int = 5
    threads: int = 1
    device: str = "cpu"
    clock: str = "wall"
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        """The number for this run: a smoke test does with less."""
        return quick if self.quick else full

    def time(self, tasks: Mapping[str, Task], rounds: int | None = None) -> Times:
        """Interleaved times; the rates are printed as they are found."""
        clocks = {"wall": wall_seconds, "cpu": cpu_seconds}
        clock = cuda_seconds if self.device == "cuda" else clocks[self.clock]
        times = interleaved(tasks, rounds or self.rounds, clock)
        for name, values in times.items():
            print(f"  {1 / statistics.median(values):14,.1f} /s  {name}", flush=True)
        return times

    def gate(self, name: str, values: float | Sequence[float], note: str = "") -> None:
        """Record a gate from its values, one a round."""
        gate = next(gate for gate in self.gates if gate.name == name)
        found = [float(value) for value in ([values] if isinstance(values, (int, float)) else values)]
        measured = statistics.median(found)
        self.rows.append(self._row(gate) | {
            "measured": measured, "met": gate.met(measured, self.device), "spread": [min(found), max(found)],
            "rounds": len(found), "note": note,
        })  # fmt: skip

    def figure(self, name: str, values: float | Sequence[float], unit: str, note: str = "") -> None:
        """Record a number on which nothing is demanded."""
        found = [float(value) for value in ([values] if isinstance(values, (int, float)) else values)]
        self.figures.append(self._where() | {
            "figure": name, "measured": statistics.median(found), "unit": unit, "spread": [min(found), max(found)],
            "rounds": len(found), "note": note,
        })  # fmt: skip

    def not_run(self, names: Sequence[str], reason: str) -> None:
        """Record that gates could not be measured."""
        for gate in self.gates:
            if gate.name in names:
                self.rows.append(self._row(gate) | {"reason": reason})

    def can(self, *names: str) -> bool:
        """Whether the peers of these gates are installed; records those that are not."""
        reasons = {gate.name: gate.absent() for gate in self.gates if gate.name in names}
        for name, reason in reasons.items():
            if reason is not None:
                self.not_run([name], reason)
        return not any(reasons.values())

    def close(self, reason: str | None = None) -> None:
        """Every gate that left no row is said not to have been run."""
        reason = reason or ("not part of the quick mode" if self.quick else "the benchmark had nothing to compare")
        done = {row["gate"] for row in self.rows}
        self.not_run([gate.name for gate in self.gates if gate.name not in done], reason)

    def _row(self, gate: Gate) -> dict[str, Any]:
        return self._where() | {
            "gate": gate.name, "measured": None, "demanded": gate.demand(self.device), "sense": gate.sense,
            "met": None, "unit": gate.unit, "against": gate.against, "versions": versions(),
        }  # fmt: skip

    def _where(self) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return {"benchmark": self.name, "device": self.device, "threads": self.threads, "clock": self.clock,
                "quick": self.quick, "machine": machine(), "date": now}  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the packages compared, those that are installed."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, cores, memory and, where there is one, the GPU; no host name."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB{_gpu()}"


def _gpu() -> str:
    import torch

    return f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""


@contextmanager
def scratch(folder: str | None) -> Iterator[Path]:
    """A folder for generated data, removed afterwards whatever happens."""
    with tempfile.TemporaryDirectory(prefix="ssl_sat_bench-", dir=folder) as made:
        yield Path(made)


def free_memory() -> int:
    """Bytes that can be had without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 0)
    return kib * 1024


def arguments(description: str | None = None) -> argparse.ArgumentParser:
    """The options of every benchmark and of the runner."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds: does it run? No figures.")
    parser.add_argument("--rounds", type=int, default=None, help="interleaved rounds (5; quick: 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every side (1: figures per core)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None, help="cuda where there is one")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that others use")
    parser.add_argument("--scratch", default=None, help="where generated data may lie for a while (up to 9 GB)")
    parser.add_argument("--out", default=None, help="folder of gates.json (outputs/bench)")
    return parser


def main(name: str, description: str | None, gates: tuple[Gate, ...], run: Callable[[Bench, Path], None]) -> None:
    """Run one benchmark from the command line; rows go to <out>/<name>.json, the table to the terminal."""
    from benchmarks.report import table

    options = arguments(description).parse_args()
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    rounds = options.rounds or (2 if options.quick else 5)
    bench = Bench(name, gates, options.quick, rounds, options.threads, device, options.clock)
    reason = None
    try:
        with scratch(options.scratch) as folder:
            run(bench, folder)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        bench.close(reason)
        result = {"gates": bench.rows, "figures": bench.figures}
        if options.out is not None:
            Path(options.out).mkdir(parents=True, exist_ok=True)
            (Path(options.out) / f"{name}.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
        print(table(bench.rows, bench.figures))
