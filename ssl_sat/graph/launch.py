"""Run what a plan lacks through Snakemake, unseen: its own words go to a log, the nodes speak to the terminal."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ssl_sat.artifact import write_atomic
from ssl_sat.graph import slurm, terminal
from ssl_sat.graph.absent import is_absent
from ssl_sat.graph.endings import read_note
from ssl_sat.graph.node import THREADS
from ssl_sat.graph.plan import Node, Plan, finished_fingerprint
from ssl_sat.graph.settings import LaunchSpec
from ssl_sat.spec import ConfigError, UserError

_SCHEDULER_LOG = "scheduler.log"


@dataclass(frozen=True)
class Outcome:
    """How a node came out: done (before), made, failed, absent (its weights, or a need's), or waiting (not run).

    `reason` names the failed need.
    """

    node: Node
    state: str
    reason: str = ""


@contextmanager
def alone(folder: Path) -> Iterator[tuple[IO[str], bool]]:
    """Hold the experiment's lock; yield its file and whether another run had to be waited for.

    The file is handed to Snakemake, so that the lock outlives a killed command until its running nodes have ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        waited = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            print("another run of this experiment is under way; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file, waited


def launch(plan: Plan, lock: IO[str], settings: LaunchSpec) -> list[Outcome]:
    """Run the plan's unfinished nodes as the settings say; return an outcome per node, in the plan's order.

    Raises UserError when the scheduler itself fails, KeyboardInterrupt after stopping everything.
    """
    settings = settings.resolved()
    _refuse_impossible(plan, settings)
    plan.write()
    settings.write(plan.folder)
    _set_markers(plan, keep_jobs=settings.launch == "slurm")
    jobs = settings.jobs or 1
    alone_here = settings.launch == "slurm" or jobs == 1  # then a node may use all cores it is given
    own_threads = os.environ.get("OMP_NUM_THREADS", "") if alone_here else str(max(1, _cores() // jobs))
    with terminal.offered() as socket, (plan.folder / _SCHEDULER_LOG).open("wb") as log:
        process = subprocess.Popen(
            _command(jobs, settings),
            cwd=plan.folder,
            env={**os.environ, terminal.SOCKET: socket, THREADS: own_threads},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
        with _signals_interrupt():
            try:
                process.wait()
            except KeyboardInterrupt:
                _stop(process)
                raise
    outcomes = _outcomes(plan)
    if process.returncode and not any(o.state in ("failed", "absent") for o in outcomes):
        words = "\n".join((plan.folder / _SCHEDULER_LOG).read_text(errors="replace").splitlines()[-15:])
        raise UserError(f"the scheduler (Snakemake) stopped with status {process.returncode}:\n{words}")
    return outcomes


def _refuse_impossible(plan: Plan, settings: LaunchSpec) -> None:
    if settings.launch == "slurm":
        return slurm.demand()
    for node in plan.nodes:
        if node.done:
            continue
        if node.resources["nodes"] > 1:
            raise ConfigError(f"node '{node.id}' asks for {node.resources['nodes']} machines: launch=slurm gives them")
        if settings.launch == "gpus" and node.resources["gpus"] > len(settings.gpus or ()):
            here = ", ".join(settings.gpus or ())
            raise ConfigError(
                f"node '{node.id}' asks for {node.resources['gpus']} GPUs, and there are: {here}. Set "
                f"resources.{node.stage}.gpus"
            )
    return None


def _command(jobs: int, settings: LaunchSpec) -> list[str]:
    """Every node takes one of `jobs` "cores": how many nodes run at a time. What threads they use is their own."""
    snakefile = Path(__file__).with_name("Snakefile")
    gpus = ["--resources", f"gpus={len(settings.gpus or ())}"] if settings.launch == "gpus" else []
    return [
        sys.executable, "-m", "snakemake", "all", "--snakefile", str(snakefile), "--cores", str(jobs), *gpus,
        "--config", "threads=1", "--nolock", "--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime",
        "--scheduler", "greedy", "--quiet", "all", "--nocolor",
    ]  # fmt: skip


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _set_markers(plan: Plan, keep_jobs: bool) -> None:
    """Make the markers tell the truth: those of finished artifacts are there, all others are not.

    keep_jobs: notes and logs of jobs that may still be in Slurm's queue stay; of other nodes a log becomes the
    previous one, since a node that survived its command may still write to it.
    """
    folder = plan.folder
    shutil.rmtree(folder / ".snakemake", ignore_errors=True)  # its memory of an earlier run, locks included
    for marker in folder.glob("*.done"):
        if marker.name.removesuffix(".done") not in plan.by_id:
            marker.unlink()
    for node in plan.nodes:
        marker = folder / f"{node.id}.done"
        if node.done:
            if not marker.is_file() or marker.read_text() != node.fingerprint:
                write_atomic(marker, node.fingerprint.encode())
            continue
        marker.unlink(missing_ok=True)
        if keep_jobs and read_note(folder, node.id).get("state") in ("queued", "running"):
            continue
        (folder / "state" / f"{node.id}.json").unlink(missing_ok=True)
        log = folder / "logs" / f"{node.id}.log"
        if log.is_file():
            os.replace(log, log.with_name(f"{node.id}.previous.log"))


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A closed terminal or a polite kill stops the nodes as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the scheduler and its nodes; kill what does not end."""
    for number, seconds in ((signal.SIGINT, 15), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def _outcomes(plan: Plan) -> list[Outcome]:
    outcomes: dict[str, Outcome] = {}
    for node in plan.nodes:
        if node.done:
            state, reason = "done", ""
        elif _made(plan, node):
            state, reason = "made", ""
        elif is_absent(plan, node) or any(outcomes[need].state == "absent" for need in node.needs.values()):
            state, reason = "absent", ""
        elif (plan.folder / "state" / f"{node.id}.json").is_file():
            state, reason = "failed", _error(plan, node)
        else:
            bad = [need for need in node.needs.values() if outcomes[need].state in ("failed", "waiting")]
            state, reason = "waiting", f"needs {', '.join(bad)}" if bad else ""
        outcomes[node.id] = Outcome(node, state, reason)
    return list(outcomes.values())


def _made(plan: Plan, node: Node) -> bool:
    """Whether its artifact is finished; of one that was to be made again only the marker tells it from the old one."""
    if node.again:
        return (plan.folder / f"{node.id}.done").is_file()
    return finished_fingerprint(Path(node.artifact)) == node.fingerprint


def _error(plan: Plan, node: Node) -> str:
    """What the node said last of itself; a node that was killed said nothing."""
    return read_note(plan.folder, node.id).get("error") or "ended without a word (killed, or out of memory)"


def last_lines(plan: Plan, node: Node, count: int = 12) -> list[str]:
    """The end of a node's log."""
    path = plan.folder / "logs" / f"{node.id}.log"
    return path.read_text(errors="replace").splitlines()[-count:] if path.is_file() else []
