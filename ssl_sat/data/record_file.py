"""Records of a pack by positioned reads into the caller's memory.

Why not through the memory map: a file that shrinks under a map kills the process (SIGBUS), where a read reports it;
mapped pages count as the process's memory and grow with the data set, read ones do not; and from a cold disk, where
the kernel has been told what comes next, reads are several times faster than page faults (docs/architecture.md).
"""

# N records of R bytes each

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssl_sat.data.packed import Pack
from ssl_sat.spec import UserError

_MOST_PIECES = 512  # of one call; Linux takes 1024
_MOST_BYTES = 256 << 20  # of one call; Linux takes 2 GiB
_ADVICE = hasattr(os, "posix_fadvise")  # macOS has none


class RecordFile:
    """The records of a pack, opened for reading; a context. UserError, naming the file, whenever it cannot be read."""

    def __init__(self, pack: Pack) -> None:
        self.path = pack.folder / "patches.bin"
        self.record_bytes, self.n = pack.manifest.record_bytes, len(pack)
        self._in_one_call = max(1, min(_MOST_PIECES, _MOST_BYTES // self.record_bytes))
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise self._unreadable(error) from error
        size = os.fstat(self._fd).st_size
        if size != self.n * self.record_bytes:
            os.close(self._fd)
            raise self._unreadable(f"{size} bytes, where {self.n * self.record_bytes} are needed")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, rows_N: NDArray[np.int64], out_NR: NDArray[np.uint8]) -> None:
        """Read the rows into `out_NR` (contiguous bytes), in their order; neighbours in the file by one call."""
        if rows_N.size and (rows_N.min() < 0 or rows_N.max() >= self.n):
            raise IndexError(f"rows {rows_N.min()}..{rows_N.max()} outside 0..{self.n - 1}")
        memory, size = memoryview(out_NR.reshape(-1)), self.record_bytes
        order = np.argsort(rows_N, kind="stable")
        for first, last in self._runs(rows_N[order]):
            places = order[first:last]
            if last - first == 1 or (np.diff(places) == 1).all():
                pieces = [memory[int(places[0]) * size : (int(places[-1]) + 1) * size]]
            else:
                pieces = [memory[place * size : (place + 1) * size] for place in places.tolist()]
            self._fill(pieces, int(rows_N[places[0]]) * size)

    def will_need(self, rows_N: NDArray[np.int64]) -> None:
        """Let the kernel fetch these rows while others are worked on."""
        self._advise(rows_N, "POSIX_FADV_WILLNEED")

    def forget(self, rows_N: NDArray[np.int64]) -> None:
        """Let the kernel drop these rows from its cache, where others would have to make room for them."""
        self._advise(rows_N, "POSIX_FADV_DONTNEED")

    def _advise(self, rows_N: NDArray[np.int64], advice: str) -> None:
        if not _ADVICE or not rows_N.size:
            return
        rows = np.sort(rows_N)
        for first, last in self._runs(rows):
            os.posix_fadvise(
                self._fd, int(rows[first]) * self.record_bytes, (last - first) * self.record_bytes, getattr(os, advice)
            )

    def _runs(self, ascending_N: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Stretches [first, last) of neighbours, none longer than one call may read."""
        starts = np.flatnonzero(np.diff(ascending_N, prepend=-2) != 1).tolist()
        stops = [*starts[1:], len(ascending_N)] if starts else []
        most = self._in_one_call
        return [
            (at, min(at + most, stop))
            for start, stop in zip(starts, stops, strict=True)
            for at in range(start, stop, most)
        ]

    def _fill(self, pieces: list[memoryview], offset: int) -> None:
        while pieces:
            try:
                got = os.preadv(self._fd, pieces, offset)
            except OSError as error:
                raise self._unreadable(error) from error
            if got == 0:
                raise self._unreadable(f"it ends before record {offset // self.record_bytes} does")
            offset += got
            while pieces and got >= len(pieces[0]):
                got -= len(pieces.pop(0))
            if got:
                pieces[0] = pieces[0][got:]

    def _unreadable(self, why: Any) -> UserError:
        why = getattr(why, "strerror", None) or why
        return UserError(
            f"{self.path} cannot be read: {why}. It was moved, shortened or replaced, or its disk fails: "
            "check the disk, and pack again if need be; a training run then continues from its last checkpoint."
        )
