"""Slurm by its own commands: sbatch, squeue, scancel; sacct only where there is a slurmdbd to answer it.

A job carries the artifact's fingerprint in its name. A command that is given again, and another experiment that needs
the same artifact, find the job in the queue and follow it, where they would otherwise submit a second one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_sat.artifact import write_atomic
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.graph.settings import SlurmSpec
from ssl_sat.spec import UserError

_ANSWER_S = 60
_WARNING_S = 120  # SIGTERM comes so long before the time limit; a training stage then saves
_ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE",
    "REVOKED",
}  # fmt: skip
TRANSIENT = {"TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "REVOKED"}


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it. state: as Slurm spells it; reason: why it waits."""

    id: str
    state: str
    reason: str
    name: str

    @property
    def ended(self) -> bool:
        """Whether it is over (COMPLETING is not)."""
        return self.state in _ENDED


class NoAnswer(Exception):
    """A command of Slurm did not answer, or refused for a moment."""


def demand() -> None:
    """UserError unless jobs can be submitted and seen from here."""
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"launch=slurm: no {', '.join(missing)} on this machine. Start it on a login node, or choose launch=local"
        )
    try:
        seen()
    except NoAnswer as error:
        raise UserError(f"launch=slurm: {error}. Is the controller running? `sinfo` tells.") from None


def accounted() -> bool:
    """Whether a slurmdbd keeps what became of jobs. Without one sacct fails, or hangs."""
    try:
        lines = _ask(["scontrol", "show", "config"]).splitlines()
    except NoAnswer:
        return False
    return any(line.startswith("AccountingStorageType") and line.endswith("slurmdbd") for line in lines)


def seen() -> list[Job]:
    """This user's jobs, those included that ended within Slurm's MinJobAge."""
    lines = _ask(["squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--format=%i|%T|%r|%j"]).splitlines()
    return [Job(*line.strip().split("|", 3)) for line in lines if line.count("|") >= 3]


def queue(folder: Path, poll_s: float, since: float = 0.0) -> list[Job]:
    """The queue as one of the experiment's nodes last saw it: one squeue every `poll_s`, however many nodes wait.

    since: an older view than this is not good enough (the job was submitted after it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    view = folder / "queue.json"
    with (folder / "queue.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            kept = json.loads(view.read_text())
        except (OSError, ValueError):
            kept = {"time": 0.0, "jobs": []}
        if kept["time"] <= max(since, time.time() - poll_s):
            began = time.time()
            kept = {"time": began, "jobs": [list(vars(job).values()) for job in seen()]}
            write_atomic(view, json.dumps(kept).encode())
    return [Job(*values) for values in kept["jobs"]]


def final_state(job: str) -> str | None:
    """What slurmdbd says of a job that has left the queue; None without one."""
    if not accounted():
        return None
    try:
        lines = _ask(["sacct", "--noheader", "--allocations", "--parsable2", "--jobs", job, "--format=State"]).split()
    except NoAnswer:
        return None
    return lines[0] if lines else None


def name_of(node: Node) -> str:
    """A job's name; what stands before the last hyphens belongs to the artifact alone."""
    return f"{_prefix(node)}{node.id}"


def _prefix(node: Node) -> str:
    return f"ssl_sat-{node.fingerprint[:12]}-"


def living(node: Node, jobs: Sequence[Job]) -> Job | None:
    """The job that makes this node's artifact now, whoever submitted it."""
    return next((job for job in jobs if job.name.startswith(_prefix(node)) and not job.ended), None)


def submit(script: Path) -> str:
    """Submit; return the job's id. UserError for what Slurm will not take, NoAnswer for what may work in a moment."""
    try:
        return _ask(["sbatch", "--parsable", str(script)]).strip().partition(";")[0]
    except NoAnswer as error:
        passing = ("socket timed out", "unable to contact", "temporarily", "connection", "did not answer", "try again")
        if any(words in str(error).lower() for words in passing):
            raise
        raise UserError(f"{error}\nThe script was {script}; resources.<stage>.* and slurm.* shape it.") from None


def cancel(job: str) -> None:
    """Ask Slurm to end a job: its processes get SIGTERM, and are killed after KillWait."""
    try:
        _ask(["scancel", job])
    except NoAnswer as error:
        print(f"{error}; end it by: scancel {job}", flush=True)


def script(plan: Plan, node: Node, settings: SlurmSpec, memory: float = 1.0) -> str:
    """The batch script of a node. memory: times what it asks for, after a job that ran out of it."""
    asked, plan_file = node.resources, (plan.folder / "plan.json").resolve()
    many = asked["nodes"] * max(1, asked["gpus"]) > 1
    heads = {
        "job-name": name_of(node),
        "output": plan_file.parent / "logs" / f"{node.id}.log",
        "open-mode": "append",
        "nodes": asked["nodes"],
        "ntasks-per-node": 1,
        "cpus-per-task": asked["cpus"],
        "mem": f"{max(1, round(asked['memory_gb'] * memory * 1024))}M",
        "time": max(1, round(asked["hours"] * 60)),
        "partition": asked["partition"],
        "account": settings.account,
        "qos": settings.qos,
        "gpus-per-node": asked["gpus"] or None,
        "signal": f"TERM@{_WARNING_S}" if asked["hours"] * 3600 > 2 * _WARNING_S else None,
    }
    # our own attempts start a lost job again: Slurm's requeue would keep the old log, memory and limit
    lines = [f"--{key}={value}" for key, value in heads.items() if value is not None]
    lines += ["--no-requeue", *settings.options]
    run = f"{_torchrun(asked) if many else ''} -m ssl_sat.graph.node {shlex.quote(str(plan_file))} {node.id}"
    srun = f"srun --cpus-per-task={asked['cpus']} --kill-on-bad-exit=1"
    return "\n".join([
        "#!/bin/bash",
        *(f"#SBATCH {line}" for line in lines),
        *settings.setup,
        f"cd {shlex.quote(plan.cwd)} || exit 1",
        *(['first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'] if many else []),
        f"exec {srun} {shlex.quote(sys.executable)}{run}",
        "",
    ])  # fmt: skip


def _torchrun(asked: dict[str, int]) -> str:
    """One agent a machine; they meet on the first one, at a port that no other job of that machine takes."""
    return (
        f" -m torch.distributed.run --nnodes={asked['nodes']} --nproc-per-node={max(1, asked['gpus'])}"
        ' --rdzv-backend=c10d --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))" --rdzv-id="$SLURM_JOB_ID"'
    )


def _ask(line: list[str]) -> str:
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{line[0]} did not answer within {_ANSWER_S} s") from None
    except OSError as error:
        raise NoAnswer(f"{line[0]}: {error.strerror}") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise NoAnswer(f"{line[0]}: {' '.join(words[-3:]) or f'status {done.returncode}'}")
    return done.stdout
