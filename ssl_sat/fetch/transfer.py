"""Fetch one file over HTTP: resumable, checked, patient.

What has arrived lies in `<file>.part`, with the server's validators in `<file>.part.json`. The next attempt, in this
process or after a kill, asks for the rest (Range, with If-Range where the server gave a strong validator). A server
that ignores Range, or whose file has changed, starts again from the first byte. The file gets its name only when
its size and its checksums are right; a wrong one is set aside as `<file>.wrong`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError, IncompleteRead, ReadTimeoutError

from ssl_sat.fetch.catalogue import Remote
from ssl_sat.spec import UserError

Progress = Callable[[int, int], None]  # bytes done, bytes in all
Watch = Callable[[str], AbstractContextManager[Progress]]  # a label -> the progress of that work
Say = Callable[[str], None]

_CHUNK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # status codes that another attempt may not meet
_GAIN = 1 << 20  # an attempt that brings this much is no failure


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try: seconds to connect and between two bytes, attempts, first pause."""

    connect_s: float = 15.0
    read_s: float = 60.0
    attempts: int = 8
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


class Refused(Exception):
    """This address will not give the file, however often it is asked."""


class Broken(Exception):
    """The attempt ended early; another one may go on from there. `wait_s` is what the server asks for."""

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class Foreign(Broken):
    """What is here does not go with what the server has: begin anew."""


@dataclass(frozen=True)
class Validator:
    """What a server said of the file that the partial one is a part of."""

    address: str
    etag: str | None = None
    modified: str | None = None

    @property
    def condition(self) -> str | None:
        """The value of If-Range: a strong entity tag, or else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def fetch(remote: Remote, path: Path, mirror: str | None, patience: Patience, watch: Watch, say: Say = print) -> None:
    """Bring `remote` to `path`, from `mirror` (a base address) or its own addresses in their order.

    Proxies and certificates follow the environment (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE). Raises UserError
    when no address gives the file, or when what they give has another size or checksum.
    """
    addresses = (f"{mirror.rstrip('/')}/{remote.name}",) if mirror else remote.addresses
    problems = []
    with requests.Session() as session:
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "ssl_sat"})
        for address in addresses:
            try:
                _Transfer(session, address, remote, path, patience, watch, say).run()
                return
            except Refused as error:
                problems.append(f"{address}: {error}")
                if address != addresses[-1]:
                    say(f"  {problems[-1]}; trying the next address")
    here = size_of(part_of(path))
    kept = f"{here:,} bytes are kept in {part_of(path)}; the same command goes on from there. " if here else ""
    raise UserError(
        f"{remote.name} cannot be fetched.\n  " + "\n  ".join(problems) + f"\n{kept}Try again later, give another "
        f"place with mirror=<address of a folder>, or put the file at {path} yourself: it is checked and used."
    )


class _Transfer:
    """One file from one address."""

    def __init__(
        self,
        session: requests.Session,
        address: str,
        remote: Remote,
        path: Path,
        patience: Patience,
        watch: Watch,
        say: Say,
    ) -> None:
        self.session, self.address, self.remote = session, address, remote
        self.path, self.part = path, part_of(path)
        self.patience, self.watch, self.say = patience, watch, say
        self.total = 0  # bytes of the file, as the server says

    def run(self) -> None:
        """Fetch, check, rename; Refused when the address does not give the right file."""
        while True:
            with self.watch(f"fetch {self.remote.name}") as advance:
                pieced = self._complete(advance)
            with self.watch(f"check {self.remote.name}") as advance:
                wrong = mismatch(self.part, self.remote, advance)
            if wrong is None:
                os.replace(self.part, self.path)
                _note_of(self.part).unlink(missing_ok=True)
                return
            if not pieced:
                raise Refused(
                    f"{wrong}{self._announced()}. It was set aside as {set_aside(self.part, self.path)} and is not used"
                )
            self.say(f"  {self.remote.name}: {wrong}; it came in several pieces, so it is fetched afresh")
            forget(self.part)

    def _announced(self) -> str:
        """The size that the server gave, where it is not the published one: then its file is another one."""
        return f" (the server gave its size as {self.total:,} bytes)" if self.total not in (0, self.remote.size) else ""

    def _complete(self, advance: Progress) -> bool:
        """Make attempts until all bytes are here; return whether they came in several pieces.

        Refused after too many attempts in a row that bring nothing.
        """
        failures = 0
        while True:
            before = size_of(self.part)
            try:
                return self._attempt(advance)
            except Broken as error:
                if isinstance(error, Foreign):
                    forget(self.part)
                failures = 0 if size_of(self.part) - before >= _GAIN else failures + 1
                if failures >= self.patience.attempts:
                    raise Refused(f"{error} ({failures} attempts in a row)") from None
                self._pause(error, failures)

    def _pause(self, error: Broken, failures: int) -> None:
        patience = self.patience
        pause = min(max(patience.pause_s * 2 ** max(failures - 1, 0), error.wait_s), patience.longest_pause_s)
        here = f"{size_of(self.part):,} of {self.remote.size:,} bytes are here"
        self.say(f"  {self.remote.name}: {error}; {here}, again in {pause:.0f} s")
        time.sleep(pause)

    def _attempt(self, advance: Progress) -> bool:
        have = size_of(self.part)
        if have == self.remote.size:
            return True
        if have > self.remote.size:
            raise Foreign(f"{have:,} bytes are here, more than were published")
        waits = (self.patience.connect_s, self.patience.read_s)
        try:
            with self.session.get(self.address, headers=self._range(have), stream=True, timeout=waits) as response:
                first = self._first_byte(response, have)
                if have and not first:
                    self.say(f"  {self.remote.name}: the server begins anew (it gives no parts, or its file changed)")
                length = response.headers.get("Content-Length", "")
                self.total = first + int(length) if length.isdecimal() else 0
                _write_note(self.part, response, self.address)
                self._receive(response, first, advance)
        except (requests.RequestException, HTTPError) as error:
            raise Broken(_in_short(error, self.patience)) from None
        if (have := size_of(self.part)) < self.remote.size:
            raise Broken(f"the server ended after {have:,} bytes")
        return first > 0

    def _range(self, have: int) -> dict[str, str]:
        if not have:
            return {}
        note = _read_note(self.part)
        condition = note.condition if note and note.address == self.address else None
        return {"Range": f"bytes={have}-"} | ({"If-Range": condition} if condition else {})

    def _first_byte(self, response: requests.Response, have: int) -> int:
        """The offset of the body in the file: `have`, or 0 when the server begins anew."""
        status = response.status_code
        if status == 200:
            return 0
        said = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said)
        if status == 206 and found and int(found[1]) == have and found[2] in ("*", str(self.remote.size)):
            return have
        if status in (206, 416):
            raise Foreign(f"status {status} with Content-Range '{said}', asked was for the bytes from {have:,} on")
        text = f"status {status} ({response.reason})"
        if status in _PASSING:
            wait = response.headers.get("Retry-After", "")
            raise Broken(text, float(wait) if wait.isdigit() else 0.0)
        raise Refused(text)

    def _receive(self, response: requests.Response, first: int, advance: Progress) -> None:
        have, size = first, self.remote.size
        with open(self.part, "r+b" if first else "wb") as file:
            file.seek(first)
            advance(first, size)
            while chunk := response.raw.read1(
                _CHUNK, decode_content=False
            ):  # read() would lose what came before a break
                file.write(chunk[: size - have])  # of a server that sends more, the checksum tells
                have = min(have + len(chunk), size)
                advance(have, size)
                if have == size:
                    return


def _in_short(error: Exception, patience: Patience) -> str:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {patience.connect_s:g} s"
    if isinstance(error, (requests.exceptions.Timeout, ReadTimeoutError)):
        return f"nothing came for {patience.read_s:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate is not trusted ({error}); REQUESTS_CA_BUNDLE names a file of your own authorities"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy refuses ({error}); HTTP_PROXY, HTTPS_PROXY and NO_PROXY say which is used"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, IncompleteRead) or isinstance(error.args[0] if error.args else None, str):
        return "the connection broke off"
    return f"the transfer failed ({type(error).__name__})"


def mismatch(path: Path, remote: Remote, advance: Progress | None = None) -> str | None:
    """Compare size and every known checksum of a file; return what is wrong, naming both values, or None."""
    size = path.stat().st_size
    if size != remote.size:
        return f"{size:,} bytes, published are {remote.size:,}"
    found = digests(path, remote.checksums, advance)
    for algorithm, published in remote.checksums.items():
        if found[algorithm] != published:
            return f"its {algorithm} is {found[algorithm]}, published is {published}"
    return None


def digests(path: Path, algorithms: Iterable[str], advance: Progress | None = None) -> dict[str, str]:
    """Hexadecimal digests of a file, all in one pass."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    total, done = path.stat().st_size, 0
    with open(path, "rb") as file:
        while chunk := file.read(4 << 20):
            for value in hashes.values():
                value.update(chunk)
            done += len(chunk)
            if advance is not None:
                advance(done, total)
    return {name: value.hexdigest() for name, value in hashes.items()}


def part_of(path: Path) -> Path:
    """Where the file is put together."""
    return path.with_name(f"{path.name}.part")


def size_of(path: Path) -> int:
    """Size in bytes, 0 for no file."""
    return path.stat().st_size if path.exists() else 0


def set_aside(path: Path, name_of: Path) -> Path:
    """Rename a wrong file to `<name>.wrong` (numbered when there is one) and forget its note."""
    number, aside = 1, name_of.with_name(f"{name_of.name}.wrong")
    while aside.exists():
        number += 1
        aside = name_of.with_name(f"{name_of.name}.wrong-{number}")
    os.rename(path, aside)
    _note_of(path).unlink(missing_ok=True)
    return aside


def forget(part: Path) -> None:
    """Delete a partial file and its note."""
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _write_note(part: Path, response: requests.Response, address: str) -> None:
    note = Validator(address, response.headers.get("ETag"), response.headers.get("Last-Modified"))
    _note_of(part).write_text(json.dumps(asdict(note)))


def _read_note(part: Path) -> Validator | None:
    try:
        return Validator(**json.loads(_note_of(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None
