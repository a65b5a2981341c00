"""Run one node of a plan, in this process: `python -m ssl_sat.graph.node <plan.json> <node>`.

`attempt` starts it, here or in a job. The marker `<node>.done` is written last; `state/<node>.json` says how far it
came.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from ssl_sat.artifact import write_atomic, write_json
from ssl_sat.graph.endings import ASKED_TO_STOP, TRANSIENT, WEIGHTS_ABSENT, passing
from ssl_sat.graph.plan import Node, read_plan
from ssl_sat.graph.stages import stage_named
from ssl_sat.graph.terminal import redirect
from ssl_sat.spec import UserError, WeightsAbsent
from ssl_sat.stage import execute, is_main_process

THREADS, ATTEMPT = "SSL_SAT_THREADS", "SSL_SAT_ATTEMPT"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip


def main(plan_path: Path, node_id: str) -> int:
    """Run the node; return 0, 1 after a crash, 2 after a user's mistake, 3 for want of weights, 75 after a failure that
    may pass (`endings`), 130 when interrupted, 143 when asked to stop.
    """
    folder = plan_path.parent
    node = read_plan(plan_path).by_id[node_id]
    if is_main_process():
        redirect(folder / "logs" / f"{node_id}.log")
    faulthandler.enable(file=2)
    _own_threads()
    began = time.time()
    place = {"host": platform.node(), "job": os.environ.get("SLURM_JOB_ID"), "attempt": _attempt()}
    _note(folder, node, state="running", started=began, pid=os.getpid(), **place)
    status, error = _guarded(node, folder)
    states = {0: "done", WEIGHTS_ABSENT: "absent", 130: "stopped", ASKED_TO_STOP: "stopped"}
    state = states.get(status, "failed")
    seconds = time.time() - began
    _note(folder, node, state=state, started=began, seconds=seconds, status=status, error=error, **place)
    if status == 0 and is_main_process():
        write_atomic(folder / f"{node_id}.done", node.fingerprint.encode())
    sys.stdout.flush()
    return status


def _guarded(node: Node, folder: Path) -> tuple[int, str]:
    try:
        _run(node, folder)
    except WeightsAbsent as error:
        print(f"{node.id}: {WeightsAbsent.row} ({error})", flush=True)
        return WEIGHTS_ABSENT, str(error)
    except UserError as error:
        print(f"error: {error}", flush=True)
        return 2, str(error)
    except KeyboardInterrupt:
        print(f"{node.id}: stopped", flush=True)
        return 130, "stopped"
    except SystemExit as error:
        traceback.print_exc()
        asked = error.code == ASKED_TO_STOP
        return (ASKED_TO_STOP, "asked to stop") if asked else (1, f"SystemExit: {error}")
    except Exception as error:
        traceback.print_exc()
        return TRANSIENT if passing(error) else 1, f"{type(error).__name__}: {error}"
    return 0, ""


def _attempt() -> int:
    return int(os.environ.get(ATTEMPT, "1"))


def _run(node: Node, folder: Path) -> None:
    nodes = read_plan(folder / "plan.json").nodes
    finished = sum((folder / f"{other.id}.done").is_file() for other in nodes)
    print(f"\n[{finished + 1} of {len(nodes)}] {node.id}", flush=True)
    stage = stage_named(node.stage)
    artifact = execute(stage, stage.spec.parse(node.config))
    if is_main_process() and artifact.fingerprint != node.fingerprint:
        raise UserError(
            f"the plan expected {node.fingerprint[:8]} and {artifact.fingerprint[:8]} was made: data or code changed "
            "while the experiment ran. Start the experiment again."
        )


def _note(folder: Path, node: Node, **facts: Any) -> None:
    if is_main_process():
        path = folder / "state" / f"{node.id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"fingerprint": node.fingerprint, **facts})


def _own_threads() -> None:
    """Undo the thread counts that Snakemake sets, so that a node computes to the bit what its stage does by hand."""
    wanted = os.environ.get(THREADS)
    if wanted is None:
        return
    for name in _THREAD_VARIABLES:
        os.environ.pop(name, None)
    if wanted:
        os.environ["OMP_NUM_THREADS"] = wanted


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2]))
