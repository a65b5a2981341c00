"""Digests of modules' code, kept between commands: parsing fifty files would take a plan a third of a second."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from ssl_sat.artifact import write_json
from ssl_sat.provenance import code_digests


class CodeDigests:
    """`digests[module]`, '' for a module that is gone. A kept digest holds while the file's time and size do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, list[object]] = {}
        self._changed = False
        self._now: dict[str, str] = {}  # of this command: a plan asks for the same module once a node
        if path.is_file():
            try:
                self._kept = json.loads(path.read_text())
            except ValueError:  # it is only a shortcut
                self._kept = {}

    def __getitem__(self, module: str) -> str:
        if module not in self._now:
            self._now[module] = self._digest(module)
        return self._now[module]

    def _digest(self, module: str) -> str:
        stamp = _stamp(module)
        if stamp is None:
            return ""
        kept = self._kept.get(module)
        if kept is None or kept[:-1] != stamp:
            kept = self._kept[module] = [*stamp, code_digests([module])[module]]
            self._changed = True
        return str(kept[-1])

    def keep(self) -> None:
        """Write what is new, where there is an outputs folder already."""
        if self._changed and self._path.parent.is_dir():
            write_json(self._path, self._kept)


def _stamp(module: str) -> list[object] | None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if found is None or found.origin is None:
        return None
    facts = Path(found.origin).stat()
    return [found.origin, facts.st_mtime_ns, facts.st_size]
