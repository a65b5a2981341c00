"""Unpack an archive that nobody vouches for: zip, tar.gz, tar.zst; plain files and folders, nothing else.

None of the published archives holds a link, a device or a path with `..`, so any of these is an error that names the
entry; and where no link is ever made, a path that stays inside the folder by its letters stays inside it on disk.
Sizes are checked as declared and as written, against the limits of the catalogue. Work happens in `<top>.partial`; a
note beside it says how many entries are written, and a killed run goes on from there, unless the machine was started
anew in between. The folder gets its name by one rename, after all of it has gone to disk.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from ssl_sat.fetch.catalogue import Limits
from ssl_sat.fetch.transfer import Progress
from ssl_sat.spec import UserError

_SAVE_S = 5.0  # between two notes of what is done
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # elsewhere an unpacking that was stopped begins afresh
_BUFFER = 1 << 20
_BLOCK = 1 << 14  # of a tar: tarfile copies what is left of a block at every read
_LONGEST_HEADER = 1 << 20  # of a tar's extended headers, which are held in memory
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, NotImplementedError)


class UnsafeArchive(UserError):
    """An archive that would leave its folder, or fill the disk."""


class DamagedArchive(UserError):
    """An archive that ends early or cannot be read."""


@dataclass(frozen=True)
class Entry:
    """A member of an archive: name, kind ('file', 'folder', or what is refused), declared size, how to read it."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


@dataclass
class Tally:
    """What an unpacking has done: entries seen, bytes written, entries outside the top folder."""

    entries: int = 0
    written: int = 0
    outside: int = 0


def unpack(archive: Path, to: Path, top: str, limits: Limits, advance: Progress) -> Tally:
    """Unpack the folder `top` of an archive to `to / top`; entries outside that folder are left out and counted.

    Raises UnsafeArchive or DamagedArchive, and then deletes the partial folder. A kill leaves it for the next run.
    """
    partial, note = to / f"{top}.partial", to / f"{top}.partial.json"
    done = _begin(partial, note, archive)
    try:
        tally = _write_all(archive, partial, top, limits, done, advance)
        if tally.entries == tally.outside:
            raise DamagedArchive(f"{archive}: no folder '{top}' in it. It is another archive than the one expected.")
    except _DAMAGED as error:
        discard(to, top)
        raise DamagedArchive(f"{archive} is damaged ({error or type(error).__name__}). Delete it and give the same "
                             "command again.") from None  # fmt: skip
    except UserError:
        discard(to, top)
        raise
    os.sync()
    os.rename(partial, to / top)
    note.unlink(missing_ok=True)
    return tally


def discard(to: Path, top: str) -> None:
    """Delete what an unfinished unpacking has left."""
    shutil.rmtree(to / f"{top}.partial", ignore_errors=True)
    (to / f"{top}.partial.json").unlink(missing_ok=True)


def _begin(partial: Path, note: Path, archive: Path) -> Tally:
    """What an earlier run of the same archive has on disk; otherwise start afresh."""
    if partial.is_dir() and note.is_file():
        try:
            saved = json.loads(note.read_text())
            if saved.pop("archive") == _identity(archive) and _BOOT.is_file():
                return Tally(**saved)
        except (ValueError, TypeError, KeyError):
            pass
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _save(note, Tally(), archive)
    return Tally()


def _identity(archive: Path) -> list[Any]:
    """The archive, and the boot of the machine: what a process wrote outlives its end, but not always a power cut."""
    return [archive.name, archive.stat().st_size, _BOOT.read_text().strip() if _BOOT.is_file() else ""]


def _save(note: Path, tally: Tally, archive: Path) -> float:
    """Note what is written; return the time."""
    temporary = note.with_name(f"{note.name}.tmp")
    temporary.write_text(json.dumps({"archive": _identity(archive), **asdict(tally)}))
    os.replace(temporary, note)
    return time.monotonic()


def _write_all(archive: Path, partial: Path, top: str, limits: Limits, done: Tally, advance: Progress) -> Tally:
    """Check every entry and write those that no earlier run has on disk."""
    cap = min(limits.size, int(limits.ratio * archive.stat().st_size))
    tally, parent, saved_at = Tally(), "", time.monotonic()
    for entry in _entries(archive, cap, limits, advance):
        parts = _inside(archive, entry)
        tally.entries += 1
        if tally.entries > limits.entries:
            raise UnsafeArchive(f"{archive}: more than {limits.entries:,} entries, the data set has fewer.")
        if tally.written + entry.size > cap:
            raise UnsafeArchive(f"{archive}: '{entry.name}' brings it to more than {cap:,} bytes unpacked; the data "
                                "set has fewer. It may be made to fill the disk.")  # fmt: skip
        if parts[:1] != [top]:
            tally.outside += 1
            continue
        tally.written += entry.size
        if tally.entries <= done.entries:
            continue
        parent = _write(archive, entry, os.path.join(partial, *parts[1:]), parent)
        if time.monotonic() - saved_at > _SAVE_S:
            saved_at = _save(partial.with_name(f"{partial.name}.json"), tally, archive)
    return tally


def _inside(archive: Path, entry: Entry) -> list[str]:
    """The parts of an entry's path; UnsafeArchive when it is no plain file or folder, or would leave the folder."""
    if entry.kind not in ("file", "folder"):
        raise UnsafeArchive(f"{archive}: '{entry.name}' is a {entry.kind}; nothing but files and folders is unpacked.")
    parts = [part for part in entry.name.split("/") if part not in ("", ".")]
    if entry.name.startswith("/") or ".." in parts or "\\" in entry.name or not entry.name.isprintable():
        raise UnsafeArchive(f"{archive}: '{entry.name!a}' would leave the folder, or is no name for a file.")
    return parts


def _write(archive: Path, entry: Entry, path: str, last_parent: str) -> str:
    """Write one entry; return the folder that is sure to exist now."""
    try:
        if entry.kind == "folder":
            os.makedirs(path, exist_ok=True)
            return path
        parent = os.path.dirname(path)
        if parent != last_parent:
            os.makedirs(parent, exist_ok=True)
        stream = entry.open()
        if stream is None:
            raise DamagedArchive(f"{archive}: '{entry.name}' has no content.")
        with stream:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
            try:
                _copy(archive, entry, stream, file)
            finally:
                os.close(file)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UnsafeArchive(f"{archive}: '{entry.name}' is both a file and a folder.") from None
    return parent


def _copy(archive: Path, entry: Entry, stream: IO[bytes], file: int) -> None:
    """Copy to a file descriptor: millions of small files, so no system call more than needed."""
    left = entry.size
    while chunk := stream.read(_BUFFER):
        left -= len(chunk)
        if left < 0:
            raise UnsafeArchive(f"{archive}: '{entry.name}' is longer than the {entry.size:,} bytes it declares.")
        while chunk:
            chunk = chunk[os.write(file, chunk) :]
    if left:
        raise DamagedArchive(f"{archive}: '{entry.name}' ends {left:,} bytes early.")


def _entries(archive: Path, cap: int, limits: Limits, advance: Progress) -> Iterator[Entry]:
    if archive.suffix == ".zip":
        return _zip_entries(archive, cap, advance)
    return _tar_entries(archive, cap + 4 * 512 * limits.entries + _BUFFER, advance)


def _zip_entries(archive: Path, cap: int, advance: Progress) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        declared = sum(member.file_size for member in members)
        if declared > cap:
            raise UnsafeArchive(f"{archive} declares {declared:,} bytes, at most {cap:,} are expected. It may be made "
                                "to fill the disk.")  # fmt: skip
        total, done = sum(member.compress_size for member in members), 0
        for member in members:
            yield Entry(member.orig_filename, _zip_kind(member), member.file_size, lambda m=member: file.open(m))  # type: ignore[misc]
            done += member.compress_size
            advance(done, total)


def _zip_kind(member: zipfile.ZipInfo) -> str:
    if member.flag_bits & 1:
        return "file under a password"
    mode = member.external_attr >> 16 if member.create_system == 3 else 0  # 3: Unix
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "device"
    return "folder" if member.is_dir() or stat.S_ISDIR(mode) else "file"


class _Header(tarfile.TarInfo):
    """A tar header; unlike tarfile's own, a damaged one is not taken for the end, and none can claim all memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros, as every tar ends
            raise
        except tarfile.HeaderError as error:  # type: ignore[attr-defined]
            raise EOFError(f"{error} where an entry or the end is due") from None
        if not (header.isfile() or header.isdir()) and header.size > _LONGEST_HEADER:
            raise UnsafeArchive(f"an extended header in the archive claims {header.size:,} bytes")
        return header


def _tar_entries(archive: Path, cap: int, advance: Progress) -> Iterator[Entry]:
    total = archive.stat().st_size
    with open(archive, "rb") as raw, closing(_Decompressed(archive, raw, cap)) as stream:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK, tarinfo=_Header) as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep millions of them
                yield Entry(member.name, _tar_kind(member), member.size, lambda m=member: tar.extractfile(m))  # type: ignore[misc]
                advance(raw.tell(), total)
            while rest := tar.fileobj.read(_BUFFER):  # type: ignore[union-attr]  # to the end, where gzip has its checksum
                if rest.count(0) != len(rest):
                    raise EOFError("other bytes follow the last entry")
        advance(total, total)


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return "symbolic link"
    if member.islnk():
        return "hard link"
    if member.issparse():
        return "sparse file"
    return "folder" if member.isdir() else "file" if member.isfile() else "device"


class _Decompressed:
    """The decompressed bytes of an archive: counted, and no more of them than `cap`."""

    def __init__(self, archive: Path, raw: IO[bytes], cap: int) -> None:
        self.archive, self.cap, self.count = archive, cap, 0
        self._stream = _decompressor(archive, raw)
        self._held, self._at = b"", 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end alone."""
        if self._at == len(self._held):
            self._held, self._at = self._more(), 0
        data = self._held[self._at : self._at + size]
        self._at += len(data)
        return data

    def _more(self) -> bytes:
        try:
            data = self._stream.read(_BUFFER)
        except OSError as error:
            if error.errno is None:  # pyarrow's and gzip's word for damaged data
                raise EOFError(str(error)) from None
            raise
        self.count += len(data)
        if self.count > self.cap:
            raise UnsafeArchive(f"{self.archive}: more than {self.cap:,} bytes decompressed. It may be made to fill "
                                "the disk.")  # fmt: skip
        return data

    def close(self) -> None:
        self._stream.close()


def _decompressor(archive: Path, raw: IO[bytes]) -> Any:
    if archive.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if archive.suffix == ".zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
    raise ValueError(f"{archive}: neither .zip nor .tar.gz nor .tar.zst")
