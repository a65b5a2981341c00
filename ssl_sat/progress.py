"""Progress of counted work: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counter(label: str, unit: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield `advance(done, total)`, to be called as often as one likes."""
    if not shown:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(label) as advance:
            yield advance
    else:
        yield _lines(label, unit)


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(label: str, unit: str, seconds: float = 5.0) -> Callable[[int, int], None]:
    began = spoke = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        if now - spoke < seconds and done < total:
            return
        spoke = now
        rate = done / max(now - began, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total else ""
        sys.stdout.write(f"  {label}: {done}/{total} {unit}, {rate:.0f} a second{left}\n")
        sys.stdout.flush()

    return advance
