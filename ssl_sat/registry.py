"""Registries: components by name, never by import path in a YAML.

An entry says where the builder lives without importing it, which spec configures it, and which
version its numbers have. A version goes up when the same spec gives other numbers; it enters the
fingerprint of every artifact that selects the component.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ssl_sat.spec import ConfigError, Spec, suggest


@dataclass(frozen=True)
class Entry:
    """One component: its name, `module:attribute` of its builder, its spec class and version."""

    name: str
    target: str
    spec: type[Spec]
    version: int

    def load(self) -> Callable[..., Any]:
        """Import the builder."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    @property
    def module(self) -> str:
        """The module that holds the builder, for the digest of its code."""
        return self.target.partition(":")[0]


class Registry:
    """The components of one kind. `registry.parse(mapping)` gives a spec, `registry.build(spec, ...)` the object."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, target: str, spec: type[Spec], *, version: int) -> None:
        """Register a component; `spec` must have a field `name`, which takes the name of the entry."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        if "name" not in spec.model_fields:
            raise ValueError(f"{self.kind} '{name}': {spec.__name__} has no field `name`")
        self._entries[name] = Entry(name, target, spec, version)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            known = ", ".join(sorted(self._entries))
            raise ConfigError(f"{self.kind}: no '{name}' (there are: {known}){suggest(name, self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def names(self) -> list[str]:
        """Names of the entries, sorted."""
        return sorted(self._entries)

    def parse(self, values: Any) -> Any:
        """Turn a mapping with a `name` into the spec of that component; a spec passes unchanged.

        Usable as pydantic's BeforeValidator.
        """
        if isinstance(values, Spec):
            return values
        if not isinstance(values, Mapping) or "name" not in values:
            raise ConfigError(f"{self.kind}: a name is needed, one of {', '.join(self.names())}")
        return self[str(values["name"])].spec.parse(values, self.kind)

    def build(self, spec: Any, **context: Any) -> Any:
        """Build the component that `spec` describes: `builder(spec, **context)`."""
        return self[spec.name].load()(spec, **context)
