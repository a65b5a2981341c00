"""Commands in processes of their own, as users start them, but from a server that has imported torch once."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["ssl_sat.training.pretraining", "ssl_sat.training.watching", "ssl_sat.data.packing", "fakes.warm"]
)


def _command(stage: str, arguments: list[str], said: str, setup: Callable[[], None] | None) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = [f"ssl_sat.{stage}", *arguments]
    if setup is not None:
        setup()
    runpy.run_module(f"ssl_sat.{stage}", run_name="__main__", alter_sys=True)


class Run:
    """`Run("pretrain", [...], folder)`: started at once; `code()` waits, `said` is what it has printed."""

    def __init__(self, stage: str, arguments: list[str], folder: Path, setup: Callable[[], None] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"said-{time.monotonic_ns()}.txt"
        self.log.touch()
        self._process = _CONTEXT.Process(target=_command, args=(stage, arguments, str(self.log), setup))
        self._process.start()

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def code(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            raise AssertionError(f"still running:\n{self.said[-2000:]}")
        assert self._process.exitcode is not None
        return self._process.exitcode

    def signal_when(self, ready: Callable[[], bool], number: int = signal.SIGKILL) -> int:
        """Send a signal as soon as `ready()`; return the exit code."""
        while not ready():
            assert self.alive, f"ended before it could be signalled:\n{self.said[-2000:]}"
            time.sleep(0.002)
        os.kill(self._process.pid, number)  # type: ignore[arg-type]
        return self.code()


def finished(stage: str, arguments: list[str], folder: Path) -> str:
    """Run to its end; return what it said."""
    run = Run(stage, arguments, folder)
    assert run.code() == 0, run.said[-3000:]
    return run.said
