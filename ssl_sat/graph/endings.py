"""How a node ended, and whether another attempt can help.

Transient is what came from outside and may not come again: a signal (killed, out of memory, asked to stop), a file
system or a connection that failed for a moment, a lost or preempted machine, a job's time limit. A user's mistake, an
exception of the code and a crash of its own (SIGSEGV, SIGABRT) would only come again.
"""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRANSIENT = 75  # EX_TEMPFAIL of sysexits.h: the status of a node that asks for another attempt
WEIGHTS_ABSENT = 3  # the status of a node whose weights of others are not on its machine
SAID = ("failed", "stopped", "absent")  # states in which a node has told what became of it
ASKED_TO_STOP = 128 + signal.SIGTERM  # what a training stage ends with once it has saved
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE,
    errno.ENOTCONN, errno.EREMOTEIO,
}  # fmt: skip
_OWN_FAULT = {signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}


@dataclass(frozen=True)
class Ended:
    """The end of an attempt: its status (0: made), the cause in words, and whether it was transient.

    limited: it was asked to stop (a time limit, a preemption), and goes on if it has saved.
    """

    status: int
    cause: str = ""
    transient: bool = False
    limited: bool = False


def passing(error: BaseException) -> bool:
    """Whether an exception comes from a file system or a connection that may work again in a moment."""
    return isinstance(error, (ConnectionError, TimeoutError)) or (
        isinstance(error, OSError) and error.errno in _PASSING
    )


def judged(status: int, note: Mapping[str, Any]) -> Ended:
    """From a process's status (negative: a signal) and the node's own last note.

    torchrun answers 1 whatever happened to its processes; the note then decides.
    """
    if status == 0:
        return Ended(0)
    said = note.get("status")
    if status < 0:
        number = -status
        return Ended(status, f"ended by {_name(number)}", number not in _OWN_FAULT)
    if said is None:
        return Ended(status, "ended without a word (killed, or out of memory)", True)
    if said in (TRANSIENT, ASKED_TO_STOP):
        return Ended(said, str(note.get("error") or "asked to stop"), True, limited=said == ASKED_TO_STOP)
    return Ended(said, str(note.get("error")), False)


def _name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name} (killed, or out of memory)" if number == signal.SIGKILL else name


def read_note(folder: Path, node: str) -> dict[str, Any]:
    """What was last noted of a node in a plan's folder; {} when nothing was."""
    try:
        return json.loads((folder / "state" / f"{node}.json").read_text())
    except (OSError, ValueError):
        return {}
