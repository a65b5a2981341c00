"""The user's terminal inside a node's process, and a plain log of what goes there.

Snakemake stands between the command and its nodes and closes what they would inherit, so the command hands its
standard output out over a local socket. A bar is then a bar on a terminal, and the log holds lines.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

SOCKET = "SSL_SAT_TERMINAL"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_REDRAW = re.compile(r"\x1b\[[0-9]*A|\x1b\[2K")


@contextmanager
def offered() -> Iterator[str]:
    """Offer this process's standard output to nodes; yield the socket's path, '' where sockets do not work."""
    folder = tempfile.mkdtemp(prefix="ssl_sat-")
    path = os.path.join(folder, "t")
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(path)
        server.listen()
        threading.Thread(target=_hand_out, args=(server,), daemon=True).start()
        yield path
    except OSError:  # the path is longer than sockets allow: the logs remain
        yield ""
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def _hand_out(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
            with client:
                socket.send_fds(client, [b"1"], [1])
        except OSError:
            return


def borrow() -> TextIO | None:
    """Return the command's standard output; None when it is gone, as on another machine or after its death."""
    path = os.environ.get(SOCKET)
    if not path:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            _, (descriptor,), _, _ = socket.recv_fds(client, 1, 1)
            return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


class Tee(io.TextIOBase):
    """Writes to the terminal as it is and to the log as plain lines; a terminal that goes away is no error."""

    def __init__(self, terminal: TextIO, log: IO[str]) -> None:
        self._terminal: TextIO | None = terminal
        self._log = log
        self._line = ""

    def write(self, text: str) -> int:
        """Write to both."""
        if self._terminal is not None:
            try:
                self._terminal.write(text)
            except OSError:
                self._terminal = None
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if not _REDRAW.search(line):
                self._log.write(plain(line) + "\n")
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        self._log.flush()
        if self._terminal is not None:
            try:
                self._terminal.flush()
            except OSError:
                self._terminal = None

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether bars make sense."""
        return self._terminal is not None and self._terminal.isatty()

    def fileno(self) -> int:
        """The terminal's, whose size bars ask for."""
        if self._terminal is None:
            raise OSError("the terminal is gone")
        return self._terminal.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the terminal."""
        return "utf-8"


def plain(line: str) -> str:
    """A line as it looked in the end: without colours and without what a carriage return wrote over."""
    return _ESCAPE.sub("", line.rstrip("\r").rpartition("\r")[2])


def redirect(log: Path) -> None:
    """Send this process's output to the log and, through Python's own streams, to the command's terminal too.

    What C code writes (a crash) reaches the log alone.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    terminal = borrow()
    file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="replace")
    sys.stdout = sys.stderr = file if terminal is None else Tee(terminal, file)  # type: ignore[assignment]
