"""GPUs shared between nodes, experiments and users' commands: one file lock a GPU, held while a node uses it.

Snakemake counts GPUs and assigns none. The kernel gives a lock back when the last process that holds its file is gone,
so that a slot outlives a killed command while its node still computes.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LOOK_S = 0.5


@dataclass(frozen=True)
class Taken:
    """GPUs of a node, and the files whose locks stand for them."""

    gpus: tuple[str, ...]
    files: tuple[int, ...]


def folder() -> Path:
    """Where the locks of this machine lie, whatever the outputs folder; `SSL_SAT_SLOTS` puts them elsewhere."""
    given = os.environ.get("SSL_SAT_SLOTS")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"ssl_sat-gpus-{os.getuid()}"


@contextmanager
def taken(
    gpus: Sequence[str], count: int, stop: threading.Event, waiting: Callable[[], None]
) -> Iterator[Taken | None]:
    """Hold `count` of `gpus`, all or none of them at a time; None when stopped before they were free."""
    found = _take(gpus, count)
    if found is None:
        waiting()
    while found is None and not stop.wait(_LOOK_S):
        found = _take(gpus, count)
    try:
        yield found
    finally:
        for file in found.files if found else ():
            os.close(file)  # and no LOCK_UN, which would free it for the node's own processes too


def _take(gpus: Sequence[str], count: int) -> Taken | None:
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    files: list[int] = []
    held: list[str] = []
    with (place / "choosing.lock").open("w") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)
        for gpu in gpus:
            if len(held) == count:
                break
            file = os.open(place / f"{re.sub(r'[^A-Za-z0-9._-]', '_', gpu)}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(gpu)
                files.append(file)
            except BlockingIOError:
                os.close(file)
        if len(held) == count:
            return Taken(tuple(held), tuple(files))
        for file in files:
            os.close(file)
        return None
