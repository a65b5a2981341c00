"""Download a published data set: fetched, checked against its published checksums, unpacked safely.

    python -m ssl_sat.download eurosat_rgb                        # into data/
    python -m ssl_sat.download bigearthnet_v1 to=/data dry=true   # what it would fetch, and whether there is room

Give the same command again after whatever stopped it: it goes on from there, and what is finished stays. Addresses,
sizes and checksums stand in ssl_sat/fetch/catalogue.py and docs/getting_data.md.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ssl_sat.fetch.catalogue import DATASETS, Archive, DataSet, Remote
from ssl_sat.spec import ConfigError, Spec, UserError, suggest

Say = Callable[[str], None]
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SMALL = 10_000_000  # bytes whose progress nobody wants to watch


class DownloadSpec(Spec):
    """What to fetch, where to, and how patiently.

    mirror: a folder's address that holds the files under their published names (default: env SSL_SAT_MIRROR).
    only: `lists` fetches the split lists and tables alone. keep: whether the archive stays once it is unpacked.
    """

    name: str
    to: str = "data"
    mirror: str | None = None
    only: Literal["all", "lists"] = "all"
    keep: bool = True
    dry: bool = False
    progress: bool = True
    attempts: int = Field(default=8, ge=1)
    timeout_s: float = Field(default=60.0, gt=0)
    pause_s: float = Field(default=1.0, ge=0)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(
                f"no data set '{name}' (there are: {', '.join(sorted(DATASETS))}){suggest(name, DATASETS)}"
            )
        return name

    @field_validator("mirror")
    @classmethod
    def _is_an_address(cls, mirror: str | None) -> str | None:
        if mirror is not None and not mirror.startswith(("http://", "https://")):
            raise ValueError("an address that begins with http:// or https:// is needed")
        return mirror


def parse(arguments: list[str], environment: Mapping[str, str]) -> DownloadSpec:
    """Turn `name key=value ...` into a spec; ConfigError for an unknown name, key or value."""
    values: dict[str, Any] = {"mirror": environment.get("SSL_SAT_MIRROR") or None}
    for text in arguments:
        key, equals, value = text.partition("=")
        if equals:
            values[key.removeprefix("--")] = None if value == "null" else value
        elif "name" in values:
            raise ConfigError(f"'{text}': one data set at a time; options are key=value, as in to=/data")
        else:
            values["name"] = text
    if "name" not in values:
        raise ConfigError(f"name a data set: python -m ssl_sat.download <{'|'.join(DATASETS)}> [to=<folder>]")
    return DownloadSpec.parse(values)


def run(spec: DownloadSpec, say: Say = print) -> Path:
    """Fetch, check and unpack what is not there yet; return the folder that `data.root` takes."""
    from ssl_sat.artifact import locked

    data, to = DATASETS[spec.name], Path(os.path.expanduser(spec.to))
    wanted = _missing(data, to, spec.only == "lists")
    _show(spec, data, to, wanted, say)
    if wanted and not spec.dry:
        to.mkdir(parents=True, exist_ok=True)
        with locked(to / f".{spec.name}.lock", f"another process is downloading {spec.name} there; waiting"):
            _check_room(data, to, _missing(data, to, spec.only == "lists"))
            for remote in _missing(data, to, spec.only == "lists"):
                _bring(spec, remote, to, say)
            if spec.only == "all" and not (to / data.archive.top).exists():
                _unpack(spec, data.archive, to, say)
    _say_next(spec, data, to, say)
    return to / data.archive.top


def _missing(data: DataSet, to: Path, lists_only: bool) -> list[Remote]:
    """The files that are still to be fetched or, for the archive, to be unpacked."""
    lists = [remote for remote in data.lists if not _place(remote, to).is_file()]
    return lists if lists_only or (to / data.archive.top).exists() else [*lists, data.archive.remote]


def _place(remote: Remote, to: Path) -> Path:
    return to / remote.folder / remote.name


def _bring(spec: DownloadSpec, remote: Remote, to: Path, say: Say) -> None:
    """Have the file in its place with the right checksums, fetching it or what is missing of it."""
    from ssl_sat.fetch.transfer import Patience, fetch, mismatch, set_aside

    path = _place(remote, to)
    path.parent.mkdir(parents=True, exist_ok=True)
    watch = _watch(spec.progress and remote.size > _SMALL)
    if path.is_file():
        with watch(f"check {remote.name}") as advance:
            wrong = mismatch(path, remote, advance)
        if wrong is None:
            say(f"  {remote.name}: there already, its checksums are right")
            return
        say(f"  {remote.name}: {wrong}; it is set aside as {set_aside(path, path)} and fetched afresh")
    patience = Patience(min(15.0, spec.timeout_s), spec.timeout_s, spec.attempts, spec.pause_s)
    began = time.monotonic()
    fetch(remote, path, spec.mirror, patience, watch, say)
    say(f"  {remote.name}: {_bytes(remote.size)} in {time.monotonic() - began:.0f} s, "
        f"{' and '.join(remote.checksums)} as published")  # fmt: skip


def _unpack(spec: DownloadSpec, archive: Archive, to: Path, say: Say) -> None:
    from ssl_sat.fetch.unpack import unpack

    path = _place(archive.remote, to)
    began = time.monotonic()
    with _watch(spec.progress and archive.remote.size > _SMALL)(f"unpack {path.name}") as advance:
        tally = unpack(path, to, archive.top, archive.limits, advance)
    say(f"  {to / archive.top}: {tally.entries - tally.outside:,} entries, {_bytes(tally.written)} in "
        f"{time.monotonic() - began:.0f} s")  # fmt: skip
    if tally.outside:
        say(f"  {tally.outside} entries beside {archive.top}/ in the archive were left out")
    if not spec.keep:
        path.unlink()
    elif archive.remote.size > _SMALL:
        say(f"  the archive is no longer needed: rm {path}   ({_bytes(archive.remote.size)}; keep=false does it)")


def _show(spec: DownloadSpec, data: DataSet, to: Path, wanted: list[Remote], say: Say) -> None:
    """Say what there is, what will be fetched from where, and what it needs on disk."""
    say(f"{spec.name} ({data.patches:,} patches, {data.licence}) into {to}/ from {spec.mirror or data.page}")
    if data.note and data.archive.remote in wanted:
        say(f"  {data.note}")
    for remote in data.lists if spec.only == "lists" else data.remotes:
        say(f"  {remote.name:56} {_bytes(remote.size) if remote in wanted else _state(data, remote, to)}")
    if data.archive.remote in wanted:
        unpacked = f"{data.archive.files:,} files, about {_bytes(data.archive.on_disk)} on disk"
        say(f"  {'unpacked to ' + data.archive.top + '/':56} {unpacked}")
    if spec.dry:
        _check_room(data, to, wanted)
        say(f"  free there: {_bytes(_free(to)[0])}; nothing was fetched (dry=true)")


def _state(data: DataSet, remote: Remote, to: Path) -> str:
    """What to say of a file that need not be fetched."""
    from ssl_sat.fetch.transfer import mismatch

    if remote == data.archive.remote:
        return f"unpacked already ({to / data.archive.top})"
    wrong = mismatch(_place(remote, to), remote)
    return "there already" if wrong is None else f"there already, but not as published, and left as it is: {wrong}"


def _check_room(data: DataSet, to: Path, wanted: list[Remote]) -> None:
    """Raise UserError when what is still to come, archive and unpacked, does not fit."""
    from ssl_sat.fetch.transfer import part_of, size_of

    have = sum(max(size_of(_place(remote, to)), size_of(part_of(_place(remote, to)))) for remote in wanted)
    needed, files = sum(remote.size for remote in wanted) - have, len(wanted)
    if data.archive.remote in wanted and not (to / f"{data.archive.top}.partial").exists():
        needed, files = needed + data.archive.on_disk, files + data.archive.files
    free, inodes = _free(to)
    if needed > free:
        raise UserError(f"{to}: {_bytes(needed)} are needed there (archive and unpacked files), {_bytes(free)} are "
                        "free. Choose another disk with to=<folder>, or free some space.")  # fmt: skip
    if inodes is not None and files > inodes:
        raise UserError(f"{to}: {files:,} files are needed there, its file system has room for {inodes:,} more. "
                        "Choose another disk with to=<folder>.")  # fmt: skip


def _free(to: Path) -> tuple[int, int | None]:
    """Bytes and files that fit where `to` is or will be; None where the number of files has no limit."""
    folder = next(parent for parent in (to, *to.absolute().parents) if parent.exists())
    facts = os.statvfs(folder)
    return shutil.disk_usage(folder).free, facts.f_favail if facts.f_files else None


def _say_next(spec: DownloadSpec, data: DataSet, to: Path, say: Say) -> None:
    if spec.dry or spec.only == "lists":
        return
    command = f"data={spec.name} data.root={to / data.archive.top}"
    say(f"check it: python -m ssl_sat.doctor {command}")
    say(f"pack it:  python -m ssl_sat.pack {command}")


def _watch(shown: bool) -> Callable[[str], Any]:
    """A counter in megabytes for callers that count bytes."""
    from ssl_sat.progress import counter

    @contextmanager
    def watch(label: str) -> Iterator[Callable[[int, int], None]]:
        with counter(label, "MB", shown) as advance:
            yield lambda done, total: advance(done // 1_000_000, max(1, -(-total // 1_000_000)))

    return watch


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


_OPTIONS = {
    "to": "folder that receives the data set",
    "mirror": "address of a folder with the same files (or env SSL_SAT_MIRROR)",
    "only": "lists: the split lists and tables alone",
    "keep": "false deletes the archive once it is unpacked",
    "dry": "true: show what would be fetched, and whether there is room",
    "progress": "false: no progress",
    "attempts": "how many in a row may bring nothing",
    "timeout_s": "longest silence of the server",
    "pause_s": "before the second attempt; doubled each time, at most 60",
}


def _usage() -> str:
    lines = [(__doc__ or "").strip(), "", "data sets"]
    for name, data in DATASETS.items():
        sizes = f"{_bytes(data.archive.remote.size):>9} to fetch, {_bytes(data.archive.on_disk):>9} unpacked"
        lines.append(f"  {name:16}{data.patches:>8,} patches  {sizes}  {data.licence}")
    lines += ["", "options"]
    for name, text in _OPTIONS.items():
        value = DownloadSpec.model_fields[name].default
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
        lines.append(f"  {f'{name}={shown}':20}{text}")
    return "\n".join(lines)


def main() -> int:
    """The command line: status 2 for what the user can mend, 130 when interrupted."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_usage())
        return 0 if arguments else 2
    goes_on = "What has arrived stays; the same command goes on from there."
    try:
        run(parse(arguments, os.environ), say=lambda text: print(text, flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (*_NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise
        mend = "Free some space." if error.errno in _NO_ROOM else "Choose another folder with to=..."
        print(f"error: {error.filename or 'disk'}: {error.strerror}. {mend} {goes_on}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted. {goes_on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
