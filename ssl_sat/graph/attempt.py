"""Bring one node of a plan to its end: `python -m ssl_sat.graph.attempt <plan.json> <node>`.

It is what Snakemake starts, and stays beside the node while it runs: takes GPUs for it, hands it to torchrun or to
Slurm, and tries again after what was transient. The node itself is `ssl_sat.graph.node`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_sat.artifact import write_atomic, write_json
from ssl_sat.graph import node as node_process
from ssl_sat.graph import slots, terminal
from ssl_sat.graph.endings import SAID, Ended, judged, read_note
from ssl_sat.graph.plan import Node, Plan, read_plan
from ssl_sat.graph.settings import LaunchSpec, read_settings
from ssl_sat.ranks import is_main_process
from ssl_sat.stage import partial_of

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130


class Attempts:
    """One node on its way: its plan, the settings of the run, and whether the user has asked to stop."""

    def __init__(self, plan_path: Path, node_id: str) -> None:
        self.plan_path = plan_path
        self.plan: Plan = read_plan(plan_path)
        self.node: Node = self.plan.by_id[node_id]
        self.folder = plan_path.parent
        self.settings: LaunchSpec = read_settings(self.folder)
        self.stop = threading.Event()

    @property
    def marker(self) -> Path:
        """What tells Snakemake that the node is made."""
        return self.folder / f"{self.node.id}.done"

    @property
    def path(self) -> Path:
        """The artifact, seen from here: a plan's relative paths start from its `cwd`."""
        return Path(self.plan.cwd) / self.node.artifact

    @property
    def log(self) -> Path:
        """What the node said."""
        return self.folder / "logs" / f"{self.node.id}.log"

    def say(self, text: str) -> None:
        """A line for the log and for the terminal of the command."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(f"{text}\n")
        shown = terminal.borrow()
        if shown is not None:
            with shown:
                shown.write(f"{text}\n")

    def note(self, **facts: Any) -> None:
        """Note how the node stands, for `status`."""
        path = self.folder / "state" / f"{self.node.id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"fingerprint": self.node.fingerprint, **facts})

    def until_ended(self) -> int:
        """Attempt it until it is made, fails for good or is stopped; return its status.

        A time limit or a preemption does not use an attempt up when the stage has saved since it began.
        """
        number, saved = 1, self._last_saved()
        while True:
            ended = self._once(number)
            if ended.status == 0:
                write_atomic(self.marker, self.node.fingerprint.encode())
                return 0
            if self.stop.is_set():
                return INTERRUPTED
            went_on = self._last_saved() > saved and ended.limited
            saved = self._last_saved()
            if not ended.transient or (number > self.settings.retries and not went_on):
                self._keep_cause(ended)
                return ended.status if 0 < ended.status < 256 else 1
            number += not went_on
            wait = 0.0 if went_on else self.settings.pause_s * 2 ** (number - 2)
            of = f"attempt {number} of {self.settings.retries + 1}" + (f" in {wait:.0f} s" if wait else "")
            self.say(f"{self.node.id}: {ended.cause}; {'it had saved and goes on' if went_on else of}")
            if self.stop.wait(wait):
                return INTERRUPTED

    def _once(self, number: int) -> Ended:
        self.marker.unlink(missing_ok=True)
        os.environ[node_process.ATTEMPT] = str(number)
        if self.settings.launch == "slurm":
            from ssl_sat.graph.job import run_job

            return run_job(self)
        if self.settings.launch == "gpus" and self.node.resources["gpus"]:
            return self._on_gpus()
        return self._here({"CUDA_VISIBLE_DEVICES": ""} if self.settings.launch == "gpus" else {})

    def _on_gpus(self) -> Ended:
        def waiting() -> None:
            self.note(state="waiting", reason="for a GPU that another command uses")

        count = self.node.resources["gpus"]
        with slots.taken(self.settings.gpus or (), count, self.stop, waiting) as taken:
            if taken is None:
                return Ended(INTERRUPTED, "stopped")
            return self._here({"CUDA_VISIBLE_DEVICES": ",".join(taken.gpus)}, count, taken.files)

    def _here(self, environment: Mapping[str, str], processes: int = 1, files: tuple[int, ...] = ()) -> Ended:
        (self.folder / "state" / f"{self.node.id}.json").unlink(missing_ok=True)
        status = self._torchrun(environment, processes, files) if processes > 1 else self._fork(environment)
        return judged(status, read_note(self.folder, self.node.id))

    def _fork(self, environment: Mapping[str, str]) -> int:
        """Run the node in a copy of this process, which has imported what a start costs and nothing heavy."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.environ.update(environment)
            for number in _SIGNALS:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            raise SystemExit(node_process.main(self.plan_path, self.node.id))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _torchrun(self, environment: Mapping[str, str], processes: int, files: tuple[int, ...]) -> int:
        line = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
            "-m", "ssl_sat.graph.node", str(self.plan_path), self.node.id,
        ]  # fmt: skip
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            env = {**os.environ, **environment}
            return subprocess.Popen(line, env=env, stdout=log, stderr=log, pass_fds=files).wait()

    def _last_saved(self) -> float:
        """When a checkpoint of the artifact was last written; 0 before that."""
        return max((path.stat().st_mtime for path in partial_of(self.path).rglob("*.ckpt")), default=0.0)

    def _keep_cause(self, ended: Ended) -> None:
        """Leave the cause where the end of the run looks for it; a node that was killed could not."""
        note = read_note(self.folder, self.node.id)
        if note.get("state") not in SAID or not note.get("error"):
            self.note(**{**note, "state": "failed", "error": ended.cause})


@contextmanager
def _signals_stop(stop: threading.Event) -> Iterator[None]:
    """The node gets the signal of the process group by itself; what is left to do here is not to try again."""
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(plan_path: Path, node_id: str) -> int:
    """Return 0 when the node is made, another status otherwise."""
    if not is_main_process():  # started by Lightning with this command line, as one of several processes of the node
        return node_process.main(plan_path, node_id)
    attempts = Attempts(plan_path.resolve(), node_id)
    with _signals_stop(attempts.stop):
        return attempts.until_ended()


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2]))
