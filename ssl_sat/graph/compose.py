"""Values of many nodes at the price of few compositions: Hydra composes once per stage and choice of groups.

Scalar overrides are merged here. They pass the same check as on the command line, once per set of keys.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from ssl_sat import config
from ssl_sat.spec import ConfigError
from ssl_sat.stage import Stage


class Composer:
    """Composes the values of stages; keeps what does not depend on scalars."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], dict[str, Any]] = {}
        self._checked: set[tuple[tuple[str, ...], frozenset[str]]] = set()

    def values(self, stage: Stage, overrides: Sequence[str], paths: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of a stage's spec; `paths` are overrides whose value is taken as it stands."""
        scalars = [text for text in overrides if _key(text) not in _choices_of(stage.name)]
        base = (stage.name, *(text for text in overrides if text not in scalars))
        parsed = [_parse(text) for text in scalars]
        self._prepare(stage, base, scalars, paths)
        values = copy.deepcopy(self._bases[base])
        for override in parsed:
            if override.is_delete():
                values.pop(override.key_or_group, None)
            else:
                _set(values, override.key_or_group, override.value())
        for name, path in paths.items():
            _set(values, name, path)
        return values

    def _prepare(self, stage: Stage, base: tuple[str, ...], scalars: Sequence[str], paths: Mapping[str, str]) -> None:
        """Refuse unknown keys and options, with suggestions (without a YAML the spec does); compose the base once."""
        asked = (base, frozenset([*map(_key, scalars), *paths]))
        if asked in self._checked:
            return
        choices, ready = base[1:], []
        if _shipped(stage.name):
            given = [*choices, *scalars, *(f"{name}=path" for name in paths)]
            ready = config.check_overrides(stage.name, stage.spec, given)
        if base not in self._bases:  # the checked choices stand first
            values = config.compose_raw(stage.name, ready[: len(choices)]) if _shipped(stage.name) else {}
            self._bases[base] = values
        self._checked.add(asked)


@cache
def _shipped(stage: str) -> bool:
    return (config.conf_dir() / f"{stage}.yaml").is_file()


@cache
def _choices_of(stage: str) -> frozenset[str]:
    """Keys that choose an option of a group: `data`, and both `ood` and `data@ood` for an entry `data@ood`."""
    if not _shipped(stage):
        return frozenset()
    defaults = yaml.safe_load((config.conf_dir() / f"{stage}.yaml").read_text()).get("defaults", [])
    keys = [key for item in defaults if isinstance(item, dict) for key in item]
    return frozenset(form for key in keys for form in (key, key.rpartition("@")[2]))


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~").strip()


@cache
def _parse(text: str) -> Any:
    override = config.parse_overrides([text])[0]
    if override.is_sweep_override():
        raise ConfigError(f"'{text}' is a sweep; a graph repeats a node by foreach")
    if "${" in text:
        raise ConfigError(f"'{text}': a graph takes plain values, no interpolation")
    if override.key_or_group == "outputs":
        raise ConfigError(f"'{text}': the experiment sets the outputs folder of its nodes")
    return override


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *folders, last = key.split(".")
    for folder in folders:
        if not isinstance(values.get(folder), dict):
            values[folder] = {}
        values = values[folder]
    values[last] = copy.deepcopy(value)
