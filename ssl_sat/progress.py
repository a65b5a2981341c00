"""Progress of counted work: a bar on a terminal, a line every few seconds in a log; with rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """To be called as often as one likes.

    The first call says what was done before; rate and time left are of the work since. `size` is the number of bytes
    of each item, for a rate in bytes.
    """

    def __call__(self, done: int, total: int, size: int = 0) -> None:
        """Note that `done` of `total` items are done."""


@contextmanager
def counter(label: str, unit: str, shown: bool = True) -> Iterator[Advance]:
    """Yield an Advance that shows its calls on a terminal or in a log, or not at all."""
    if not shown:
        yield lambda done, total, size=0: None
    elif sys.stderr.isatty():
        with _bar(label, unit) as advance:
            yield advance
    else:
        yield _lines(label, unit)


class Rate:
    """Items a second between the first note and the last, and the seconds that the rest takes at that rate."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: tuple[float, int] | None = None
        self._now = 0.0
        self.done = self.total = self.size = 0

    def note(self, done: int, total: int, size: int) -> float:
        """Take in a call of Advance; return its time."""
        self._now = self._clock()
        if self._began is None:
            self._began = self._now, done
        self.done, self.total, self.size = done, total, size
        return self._now

    @property
    def a_second(self) -> float:
        """Items a second; 0 before the first."""
        if self._began is None:
            return 0.0
        seconds, before = self._now - self._began[0], self._began[1]
        return (self.done - before) / seconds if seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left; None while they are not known."""
        rate = self.a_second
        return (self.total - self.done) / rate if rate > 0 else None

    def text(self, unit: str) -> str:
        """`400 patches/s, 64.0 MB/s, 12:40 left`."""
        rate, left = self.a_second, self.left
        shown = [f"{rate:.0f} {unit}/s"]
        if self.size:
            shown.append(f"{rate * self.size / 1e6:.1f} MB/s")
        if left is not None and self.done < self.total:
            shown.append(f"{clock(left)} left")
        return ", ".join(shown)


def clock(seconds: float) -> str:
    """`0:07`, `12:40`, `3:02:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def _bar(label: str, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task, rate = progress.add_task(label, total=None, rate=""), Rate(time.monotonic)

        def advance(done: int, total: int, size: int = 0) -> None:
            rate.note(done, total, size)
            progress.update(task, completed=done, total=total, rate=rate.text(unit))

        yield advance


def _lines(label: str, unit: str, seconds: float = 5.0) -> Advance:
    rate, spoke = Rate(time.monotonic), time.monotonic()

    def advance(done: int, total: int, size: int = 0) -> None:
        nonlocal spoke
        first = rate.total == 0
        now = rate.note(done, total, size)
        if first or (now - spoke < seconds and done < total):
            return
        spoke = now
        sys.stdout.write(f"  {label}: {done}/{total} {unit}, {rate.text(unit)}\n")
        sys.stdout.flush()

    return advance
