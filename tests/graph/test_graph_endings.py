import errno
import signal

import pytest

from ssl_sat.graph.endings import ASKED_TO_STOP, TRANSIENT, judged, passing

RUNNING = {"state": "running", "pid": 1}


@pytest.mark.parametrize(
    ("status", "note", "transient"),
    [
        (-signal.SIGKILL, RUNNING, True),
        (-signal.SIGTERM, RUNNING, True),
        (-signal.SIGSEGV, RUNNING, False),  # a crash of its own would come again
        (-signal.SIGABRT, RUNNING, False),
        (1, RUNNING, True),  # torchrun's word on processes that were killed
        (1, {"status": 2, "error": "a mistake"}, False),
        (1, {"status": TRANSIENT, "error": "OSError"}, True),
        (TRANSIENT, {"status": TRANSIENT, "error": "OSError"}, True),
        (2, {"status": 2, "error": "a mistake"}, False),
        (1, {"status": 1, "error": "ValueError"}, False),
        (ASKED_TO_STOP, {"status": ASKED_TO_STOP, "error": "asked to stop"}, True),
    ],
)
def test_what_is_transient(status, note, transient):
    ended = judged(status, note)
    assert ended.transient is transient and ended.status != 0
    assert ended.limited is (status == ASKED_TO_STOP)


def test_made_is_made():
    assert judged(0, {}).status == 0


def test_errors_that_pass():
    assert passing(OSError(errno.ESTALE, "")) and passing(ConnectionResetError()) and passing(TimeoutError())
    assert passing(OSError(errno.EIO, ""))
    for error in (FileNotFoundError(), PermissionError(), OSError(errno.ENOSPC, ""), ValueError(), MemoryError()):
        assert not passing(error)
