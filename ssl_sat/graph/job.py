"""A node as a job of Slurm, from submission (or from finding it in the queue) to its end."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ssl_sat.artifact import write_json
from ssl_sat.graph import slurm
from ssl_sat.graph.endings import SAID, Ended, judged, read_note
from ssl_sat.graph.plan import finished_fingerprint
from ssl_sat.graph.slurm import Job, NoAnswer
from ssl_sat.spec import UserError

if TYPE_CHECKING:
    from ssl_sat.graph.attempt import Attempts

_LAG_S = 30.0  # a file that a job wrote on another machine may be seen so much later
_MORE_MEMORY = 2.0  # of what it asked for before, when a job ran out of it


def run_job(attempts: Attempts) -> Ended:
    """Submit the node, unless its job is in the queue already, and follow it to its end."""
    try:
        job, submitted = _job(attempts)
    except UserError as error:
        attempts.note(state="failed", error=str(error))
        return Ended(2, str(error))
    if job is None:
        return Ended(130, "stopped")
    state = _follow(attempts, job, submitted)
    return Ended(130, "stopped") if state is None else _judged(attempts, job, state)


def _job(attempts: Attempts) -> tuple[str | None, float]:
    """The id of the job that makes the artifact, and since when it must be in the queue."""
    node, folder = attempts.node, attempts.folder / "slurm"
    found = slurm.living(node, _queue(attempts, time.time()))
    if attempts.stop.is_set():
        return None, 0.0
    if found is not None:
        attempts.say(f"{node.id}: job {found.id} is in the queue already; following it")
        return found.id, 0.0
    (attempts.folder / "state" / f"{node.id}.json").unlink(missing_ok=True)
    attempts.log.parent.mkdir(parents=True, exist_ok=True)
    memory = float(_record(attempts).get("memory", 1.0))
    script = folder / f"{node.id}.sh"
    script.write_text(slurm.script(attempts.plan, node, attempts.settings.slurm, memory))
    while not attempts.stop.is_set():
        try:
            job = slurm.submit(script)
        except NoAnswer as error:
            attempts.say(f"{node.id}: {error}; trying again")
            attempts.stop.wait(attempts.settings.slurm.poll_s)
            found = slurm.living(node, _queue(attempts, time.time()))  # it may have been taken after all
            if found is None:
                continue
            job = found.id
        write_json(folder / f"{node.id}.json", {"job": job, "fingerprint": node.fingerprint, "memory": memory})
        attempts.note(state="queued", job=job)
        attempts.say(f"{node.id}: submitted as job {job}")
        return job, time.time()
    return None, 0.0


def _record(attempts: Attempts) -> dict[str, Any]:
    """What this experiment noted when it submitted this artifact's job; {} when it did not."""
    try:
        record = json.loads((attempts.folder / "slurm" / f"{attempts.node.id}.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if record["fingerprint"] == attempts.node.fingerprint else {}


def _queue(attempts: Attempts, since: float) -> list[Job]:
    """The queue, asked for until it answers or the user stops: jobs outlive a controller that is restarted."""
    told = False
    while True:
        try:
            return slurm.queue(attempts.folder / "slurm", attempts.settings.slurm.poll_s, since)
        except NoAnswer as error:
            if not told:
                attempts.say(f"{attempts.node.id}: {error}; waiting for Slurm")
                told = True
            if attempts.stop.wait(attempts.settings.slurm.poll_s):
                return []


def _follow(attempts: Attempts, job: str, submitted: float) -> str | None:
    """Wait until the job has ended; return its last state, GONE when nobody knows it, None when stopped."""
    shown = ""
    while True:
        found = next((item for item in _queue(attempts, submitted) if item.id == job), None)
        if attempts.stop.is_set():
            if _record(attempts).get("job") == job:  # another experiment's job is left to it
                slurm.cancel(job)
            return None
        if found is None:
            return slurm.final_state(job) or "GONE"
        if found.ended:
            return found.state
        if found.state == "PENDING" and found.reason != shown:
            shown = found.reason
            attempts.note(state="queued", job=job, reason=found.reason)
        attempts.stop.wait(attempts.settings.slurm.poll_s)


def _judged(attempts: Attempts, job: str, state: str) -> Ended:
    """From Slurm's word and the node's own note."""
    own = _record(attempts).get("job") == job
    ended, unsure = state in ("COMPLETED", "GONE"), attempts.node.again and not own
    if _made(attempts, own, patient=ended and not unsure):
        return Ended(0)
    if ended and unsure:  # the old artifact or a new one: a job of one's own can tell
        return Ended(1, f"job {job} of another experiment has ended; looking at what it made", True)
    if state == "OUT_OF_MEMORY":
        record = _record(attempts)
        more = {**record, "memory": record.get("memory", 1.0) * _MORE_MEMORY, "fingerprint": attempts.node.fingerprint}
        write_json(attempts.folder / "slurm" / f"{attempts.node.id}.json", more)
    if state in slurm.TRANSIENT:
        return Ended(1, f"job {job}: {state}", True, limited=state in ("TIMEOUT", "PREEMPTED"))
    if state.startswith("CANCELLED"):
        return Ended(1, f"job {job} was cancelled", transient=not own)  # another experiment was stopped: make it here
    note = read_note(attempts.folder, attempts.node.id)
    if note.get("state") in SAID:
        return judged(1, note)
    if note.get("state") == "running":
        return Ended(1, f"job {job}: {state}, ended without a word", True)
    return Ended(1, f"job {job}: {state} before the node began; its log has the words of the script")


def _made(attempts: Attempts, own: bool, patient: bool) -> bool:
    """Whether the node is made: its marker says so, or, after another experiment's job, the artifact."""
    end = time.monotonic() + (_LAG_S if patient else 0.0)
    while True:
        if attempts.marker.is_file():
            return True
        if not own and not attempts.node.again and finished_fingerprint(attempts.path) == attempts.node.fingerprint:
            return True
        noted = read_note(attempts.folder, attempts.node.id).get("state")
        if noted in SAID or time.monotonic() > end or attempts.stop.wait(0.5):
            return False
