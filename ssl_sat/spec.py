"""Specs: frozen, strict descriptions of what a stage or a component shall do.

A spec is plain data. It imports neither torch nor Hydra, so that `--help`, the planner and the
fingerprints cost milliseconds. Every field is science (it enters the fingerprint of the artifact)
unless it is declared with `runtime(...)`: devices, paths, loggers and the like. A field that is added to a spec that
artifacts were made with is declared with `later(...)`, or all of them would be made again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator


class UserError(Exception):
    """An error the user can mend: it says what is wrong, where, and what to do. Shown without a traceback."""


class ConfigError(UserError):
    """A wrong key or value in the configuration."""


class MissingInput(UserError):
    """A data set or an artifact that is not there; the message names the command that makes it."""


class WeightsAbsent(MissingInput):
    """Weights of others that are not on this machine. A table shows `row` where the numbers of the run would stand."""

    row = "not run: weights absent"


def suggest(word: str, options: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` when one of `options` is close to `word`, otherwise ''."""
    close = difflib.get_close_matches(word, [str(option) for option in options], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def runtime(default: Any = ..., **kwargs: Any) -> Any:
    """Declare a field that does not change the result, and so stays out of the fingerprint."""
    return Field(default, json_schema_extra={"runtime": True}, **kwargs)


def later(default: Any, **kwargs: Any) -> Any:
    """Declare a field that came after artifacts were made without it, at a default that means what was done before.

    At that default it is no part of the science, so their fingerprints stay as they are; at any other value it is.
    """
    return Field(default, json_schema_extra={"later": True}, **kwargs)


class Spec(BaseModel):
    """Base of every spec: immutable, unknown keys refused, numbers finite and never made of true or false."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {kind, *get_args(kind)} & {int, float}:
            raise ValueError("a number is needed")
        return value

    def science(self) -> dict[str, Any]:
        """Return the part of the spec that decides the result, as JSON-ready data.

        Left out are runtime fields, and fields declared with `later` that are at their default.
        """
        fields = type(self).model_fields
        return {name: _science(getattr(self, name)) for name, field in fields.items() if self._decides(name, field)}

    def _decides(self, name: str, field: Any) -> bool:
        return not is_runtime(field) and not (
            is_later(field) and getattr(self, name) == field.get_default(call_default_factory=True)
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Validate `values`; raise ConfigError with key paths and suggestions instead of pydantic's own report."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain(error, cls, where)) from None


def _science(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.science()
    if isinstance(value, Mapping):
        return {str(key): _science(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_science(item) for item in value]
    return value


def is_runtime(field: Any) -> bool:
    """Whether a field (of `model_fields`) was declared with `runtime(...)`."""
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and bool(extra.get("runtime"))


def is_later(field: Any) -> bool:
    """Whether a field (of `model_fields`) was declared with `later(...)`."""
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and bool(extra.get("later"))


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """Turn pydantic's errors into one line per mistake, with the nearest valid key for an unknown one."""
    lines = []
    for item in error.errors():
        path = ".".join([where, *map(str, item["loc"])]).strip(".")
        if item["type"] == "extra_forbidden":
            parent, key = path.rpartition(".")[0], str(item["loc"][-1])
            known = _fields_at(model, item["loc"][:-1])
            lines.append(f"{parent or 'config'}: unknown key '{key}'{suggest(key, known)}")
        elif item["type"] == "missing":
            lines.append(f"{path}: a value is needed")
        else:
            message = item["msg"].removeprefix("Value error, ")
            nearest = ""
            if item["type"] == "literal_error":
                expected = str(item.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ")
                nearest = suggest(str(item["input"]), expected.split(", "))
            lines.append(f"{path}: {message} (got {_shortened(item['input'])}){nearest}" if path else message)
    return "\n".join(lines)


def _fields_at(model: Any, path: Iterable[Any]) -> list[str]:
    for key in path:
        field = getattr(model, "model_fields", {}).get(str(key))
        if field is None:
            return []
        model = next((m for m in (field.annotation, *get_args(field.annotation)) if hasattr(m, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
