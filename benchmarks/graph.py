"""What planning costs: 1,000 nodes from cold, and a command that finds everything done.

Each run is a process of its own, as a user starts it, so that imports count. The graph is one of real stages (pack,
pretrain, finetune); its artifacts are written here as empty records of the planned fingerprints.
`--clock cpu` takes the processor time of that process, on a machine that others use.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Bench, Gate, main
from ssl_sat.artifact import publish
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.stages import stage_named
from ssl_sat.provenance import code_digests

ROOT = Path(__file__).resolve().parents[1]
GATES = (
    Gate("plan of 1,000 nodes, from cold", 10.0, "<=", "s", "the issue's demand"),
    Gate("everything done, 9 nodes", 1.5, "<=", "s", "'about a second'"),
    Gate("everything done, 1,000 nodes", 3.0, "<=", "s", "the same for a large graph"),
)
GRAPH = """
name: large
question: What does a plan cost?
nodes:
  pack: {{stage: pack, overrides: [data=scenes]}}
  pretrain:
    stage: pretrain
    needs: {{pack: pack}}
    overrides: [data=scenes, encoder=resnet18, epochs=2, optim.warmup_epochs=0]
    foreach: {{method: [simclr, dcl], batch_size: {batches}, seed: {seeds}}}
  finetune: {{stage: finetune, needs: {{pack: pack, init: pretrain}}, overrides: [data=scenes, phases=full]}}
"""
PLANNED = "from pathlib import Path; from ssl_sat.graph.planner import make_plan; make_plan(Path('graph.yaml')).write()"


def run(bench: Bench, folder: Path) -> None:
    """Plan and find done, each in a new process."""
    large, small = folder / "large", folder / "small"
    for place, batches, seeds in ((large, [32, 64, 128], bench.size(84, 2)), (small, [64], 2)):
        place.mkdir()
        (place / "graph.yaml").write_text(GRAPH.format(batches=batches, seeds=list(range(seeds))))
    nodes = 1 + 12 * bench.size(84, 2)
    print(f"  {nodes} nodes, and 9")
    cold = [seconds(bench, large, ["-c", PLANNED], fresh=True) for _ in range(bench.rounds)]
    if not bench.quick:
        bench.gate(GATES[0].name, cold, f"{nodes} nodes; interpreter, imports and the written plan.json included")
    for place, gate in ((small, GATES[1]), (large, GATES[2])):
        finish(place)
        command = ["-m", "ssl_sat.experiment", "graph=graph.yaml"]
        seconds(bench, place, command)  # writes the report, once
        times = [seconds(bench, place, command) for _ in range(bench.rounds)]
        if not bench.quick:
            bench.gate(gate.name, times, "the whole command, interpreter and imports included")
    bench.figure("an interpreter that imports Hydra alone", [
        seconds(bench, small, ["-c", "import hydra"]) for _ in range(bench.rounds)
    ], "s", "of each command above")  # fmt: skip


def seconds(bench: Bench, place: Path, line: Sequence[str], fresh: bool = False) -> float:
    """Wall (or processor) time of one Python command in a folder; fresh: without what an earlier one has kept."""
    if fresh:
        shutil.rmtree(place / "outputs", ignore_errors=True)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *line], cwd=place, env=env, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"  {cpu if bench.clock == 'cpu' else wall:8.2f} s  {line[-1][:40]} in {place.name}", flush=True)
    return cpu if bench.clock == "cpu" else wall


def finish(place: Path) -> None:
    """Write an empty finished artifact for every node of the folder's plan."""
    here = Path.cwd()
    os.chdir(place)
    try:
        plan: Plan = make_plan(Path("graph.yaml"))
    finally:
        os.chdir(here)
    for node in plan.nodes:
        artifact = place / node.artifact
        partial = artifact.with_name(f"{artifact.name}.partial")
        partial.mkdir(parents=True)
        for name, values in (("metrics", {}), ("provenance", {}), ("config", node.config)):
            (partial / f"{name}.json").write_text(json.dumps(values))
        code = code_digests(stage_named(node.stage).code)
        record = {"stage": node.stage, "fingerprint": node.fingerprint, "inputs": node.inputs, "choices": "x",
                  "code": code, "synthetic": True, "input_paths": {}}  # fmt: skip
        publish(partial, artifact, record)


if __name__ == "__main__":
    main("graph", __doc__, GATES, run)
