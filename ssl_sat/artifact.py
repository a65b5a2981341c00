"""Artifacts: folders that a stage publishes once, complete, and never overwrites.

    artifact.json     format, stage, fingerprint, input fingerprints and contents, code digests; written last: 'done'
    config.json       the resolved spec
    provenance.json   where, when and with what it was made
    metrics.json      flat, sorted, no timestamps: `cmp` compares two runs
    files.json        name -> sha256 of every other file

Work happens in `<name>.partial`, which an atomic rename turns into `<name>`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_sat.spec import MissingInput, UserError

FORMAT = "ssl_sat.artifact/1"
_OUTSIDE_HASHES = {"artifact.json", "files.json"}
_PUBLISHED = re.compile(r"-[0-9a-f]{8}$")
_ORPHAN = re.compile(r"\..+\.\d+\.tmp")  # what a kill in the middle of `write_atomic` leaves


@dataclass(frozen=True)
class Ref:
    """An artifact as an input: one that exists, or one that a plan will make at `path`."""

    path: Path
    stage: str
    fingerprint: str
    config: Mapping[str, Any]
    choices: str
    synthetic: bool = False
    inputs: Mapping[str, str] | None = None  # slot -> fingerprint
    identity: Mapping[str, Any] = field(default_factory=dict)  # what the fingerprint is of; empty for an opened one

    @property
    def name(self) -> str:
        """`<stage>/<folder>`, as printed to users."""
        return f"{self.stage}/{self.path.name}"


class Artifact:
    """A finished artifact, opened for reading."""

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path = path
        self.record = record

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Artifact:
        """Open the artifact at `path` (a folder or a link to one).

        Raises MissingInput when it is absent or unfinished, UserError when it is unreadable or of another format.
        """
        folder = Path(path).resolve()
        if not folder.is_dir():
            raise MissingInput(f"no artifact at {path}. `ls outputs/*` shows what is there.")
        if not (folder / "artifact.json").is_file():
            raise MissingInput(f"{path} is not a finished artifact: it has no artifact.json. Run its stage again.")
        try:
            record = json.loads((folder / "artifact.json").read_bytes())
        except ValueError:
            raise UserError(f"{path}: damaged artifact.json. Move the folder away and run its stage again.") from None
        if record.get("format") != FORMAT:
            raise UserError(f"{path}: format {record.get('format')!r}, this version reads {FORMAT!r}.")
        return cls(folder, record)

    @property
    def stage(self) -> str:
        """Name of the stage that made it."""
        return str(self.record["stage"])

    @property
    def fingerprint(self) -> str:
        """The 64 hexadecimal digits that identify it."""
        return str(self.record["fingerprint"])

    @property
    def synthetic(self) -> bool:
        """Whether generated data went into it, at whatever distance."""
        return bool(self.record["synthetic"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved spec it was made from."""
        return self.json("config.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """Its flat metrics; UserError when the file is not the one that was published."""
        return json.loads(unchanged(self.path, "metrics.json").read_text())

    @property
    def ref(self) -> Ref:
        """It as an input of another stage."""
        return Ref(
            self.path, self.stage, self.fingerprint, self.config, self.record["choices"], self.synthetic,
            self.record["inputs"],
        )  # fmt: skip

    def json(self, name: str) -> dict[str, Any]:
        """Read one of its JSON files."""
        return json.loads((self.path / name).read_text())

    def damaged(self) -> list[str]:
        """Compare every file with the recorded sha256; return one line per file that is absent, changed or extra."""
        if not (self.path / "files.json").is_file():
            return ["files.json: absent"]
        expected, present = self.json("files.json"), hash_files(self.path)
        lines = [f"{name}: absent" for name in expected if name not in present]
        lines += [f"{name}: changed" for name in expected if name in present and present[name] != expected[name]]
        return lines + [f"{name}: not part of the artifact" for name in present if name not in expected]


def unchanged(folder: Path, name: str) -> Path:
    """The path of a file of a published artifact; UserError when it is not, to the byte, the one that was published."""
    path, listed = folder / name, folder / "files.json"
    recorded = json.loads(listed.read_text()).get(name, "none") if listed.is_file() else "lost"
    found = sha256_file(path) if path.is_file() else "absent"
    if found != recorded:
        raise UserError(
            f"{shown(path)} is not the file that this artifact was published with: its sha256 is {found[:16]}, "
            f"recorded is {recorded[:16]}. Nothing of it is used. `python -m ssl_sat.verify {shown(folder)}` names all "
            "that changed; to have it back, move the folder away and run its stage again."
        )
    return path


def shown(path: Path) -> str:
    """A path for messages: relative where it lies below the working folder."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def outputs_of(stage: str, outputs: Path) -> list[Artifact]:
    """Finished artifacts of a stage under `outputs`, newest first; `latest`, choices and partials are passed over."""
    folder = outputs / stage
    if not folder.is_dir():
        return []
    done = [p for p in folder.iterdir() if _PUBLISHED.search(p.name) and (p / "artifact.json").is_file()]
    done.sort(key=lambda p: (p / "artifact.json").stat().st_mtime_ns, reverse=True)
    return [Artifact.open(p) for p in done]


def find(stage: str, fingerprint: str, outputs: Path) -> Artifact:
    """Return the artifact of a stage with this fingerprint; MissingInput when it was deleted."""
    for path in sorted((outputs / stage).glob(f"*-{fingerprint[:8]}")):
        if (path / "artifact.json").is_file():
            artifact = Artifact.open(path)
            if artifact.fingerprint == fingerprint:
                return artifact
    at = outputs / stage
    raise MissingInput(f"no {stage} artifact {fingerprint[:8]} under {at}; run `python -m ssl_sat.{stage}` again.")


def latest(stage: str, outputs: Path) -> Artifact:
    """Return the artifact that `outputs/<stage>/latest` points to; MissingInput names the command that makes one."""
    link = outputs / stage / "latest"
    if not link.exists():
        raise MissingInput(f"no finished {stage} under {outputs / stage}. Make one: python -m ssl_sat.{stage}")
    return Artifact.open(link)


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file, streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Map every file of an artifact (relative, sorted) to its sha256, the records about the files left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): sha256_file(p) for p in files if str(p.relative_to(folder)) not in _OUTSIDE_HASHES
    }


def held(folder: Path) -> str | None:
    """The sha256 of what an artifact holds, taken from its files.json alone; None where that cannot be read.

    provenance.json stays out: an artifact made again with the same numbers holds the same.
    """
    try:
        files = json.loads((folder / "files.json").read_bytes())
    except (OSError, ValueError):
        return None
    files.pop("provenance.json", None)
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def remade(record: Mapping[str, Any], inputs: Mapping[str, Path]) -> list[str]:
    """Slots whose artifact (`inputs`: slot -> folder) was made again since, and holds something else than what went in.

    A record of before `input_files` says nothing and is believed, unless the input's own has them: it is younger then.
    """
    went_in = record.get("input_files")
    if went_in is None:
        return sorted(slot for slot, folder in inputs.items() if "input_files" in _record_of(folder))
    now = {slot: held(folder) for slot, folder in inputs.items() if slot in went_in}
    return sorted(slot for slot, found in now.items() if found is not None and found != went_in[slot])


def _record_of(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "artifact.json").read_bytes())
    except (OSError, ValueError):
        return {}


def write_json(path: Path, data: Any, sort: bool = True) -> None:
    """Write indented JSON durably: a temporary file beside the target, fsync, replace."""
    write_atomic(path, (json.dumps(data, indent=1, sort_keys=sort, allow_nan=False) + "\n").encode())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader, or a kill at any moment, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder (or the contents of a file) durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics sorted; ValueError for a nested or non-finite one (a missing value is None, not NaN)."""
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metric {name} is {value}")
        if not isinstance(value, (bool, int, float, str, type(None))):
            raise ValueError(f"metric {name} is a {type(value).__name__}; metrics are flat")
    return dict(sorted(metrics.items()))


def publish(partial: Path, final: Path, record: Mapping[str, Any]) -> Artifact:
    """Turn a partial folder into the finished artifact `final`; FileExistsError if that is there already."""
    if os.path.lexists(final):
        raise FileExistsError(f"{final} exists; artifacts are never overwritten")
    for path in [p for p in partial.rglob("*") if _ORPHAN.fullmatch(p.name)]:
        path.unlink()
    _sync_files(partial)
    write_json(partial / "files.json", hash_files(partial))
    write_json(partial / "artifact.json", {"format": FORMAT, **record})
    os.rename(partial, final)
    sync_folder(final.parent)
    return Artifact.open(final)


def _sync_files(folder: Path) -> None:
    """Bring every file to the disk before the record says that the artifact is complete."""
    for path in [p for p in folder.rglob("*") if p.is_file() or p.is_dir()]:
        sync_folder(path)


def link(at: Path, target: str) -> None:
    """Make `at` a link to its neighbour `target`, atomically; UserError when a folder of that name is in the way."""
    if at.is_dir() and not at.is_symlink():
        raise UserError(f"{at} is a folder, and a link to {target} belongs there. Move it away.")
    temporary = at.with_name(f".{at.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, at)


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`, which the kernel releases when the process dies; print `waiting` if taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
