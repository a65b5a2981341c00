"""Configuration: Hydra composes YAML, our specs validate it. The only module that imports Hydra.

Override keys are checked before Hydra sees them, because its own message suggests nothing.
Hydra's own output folders and logging are off: the artifact is the record of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_sat.spec import ConfigError, Spec, UserError, suggest
from ssl_sat.stage import Stage, StageSpec, execute

_OFF = (
    "hydra.run.dir=.",
    "hydra.sweep.dir=outputs/multirun",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra/help=ssl_sat",
)
_TAKES_VALUE = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c"}


def conf_dir() -> Path:
    """The folder of the shipped YAML: `ssl_sat/conf` of a wheel, or `conf` beside our own pyproject.toml."""
    return shipped("conf")


def shipped(name: str) -> Path:
    """A data folder that the wheel carries inside the package and a checkout beside it."""
    package = Path(__file__).resolve().parent
    if (package / name).is_dir():
        return package / name
    pyproject = package.parent / "pyproject.toml"
    if pyproject.is_file() and 'name = "ssl-sat"' in pyproject.read_text():
        return package.parent / name
    raise UserError(f"the installation lacks its folder '{name}'; install ssl-sat again")


def main(stage: Stage, after: Callable[[Any], None] | None = None) -> None:
    """Command line of a stage: compose, validate, execute; a user's mistake ends with one message and status 2."""
    run(stage.name, stage.spec, lambda spec: (execute(stage, spec), after(spec) if after else None))


def run(name: str, spec_class: type[StageSpec] | type[Spec], task: Callable[[Any], Any]) -> None:
    """Compose `<name>.yaml` with the overrides of `sys.argv`, build the spec and call `task(spec)`."""

    def with_config(config: DictConfig) -> None:
        GlobalHydra.instance().clear()  # Lightning's launcher would otherwise look for Hydra's output folder
        HydraConfig.instance().cfg = None
        try:
            task(spec_class.parse(OmegaConf.to_container(config, resolve=True)))  # type: ignore[arg-type]
        except UserError as error:
            _fail(error)

    try:
        asked = {"--help", "-h", "--hydra-help"} & set(sys.argv[1:])
        overrides = sys.argv[1:] if asked else check_overrides(name, spec_class, sys.argv[1:])
        sys.argv = [sys.argv[0], *overrides, *_OFF]
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(with_config)()
    except UserError as error:
        _fail(error)


def _fail(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def compose(name: str, spec_class: type[Any], overrides: Iterable[str]) -> Any:
    """Return the validated spec of `<name>.yaml` with overrides, as the command line would."""
    raw = compose_raw(name, check_overrides(name, spec_class, list(overrides)))
    return spec_class.parse(raw)


def compose_raw(name: str, overrides: Iterable[str]) -> dict[str, Any]:
    """Compose with Hydra alone and return plain data; ConfigError with Hydra's own words if it refuses."""
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = hydra.compose(name, [*overrides])
            return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from None


def check_overrides(name: str, spec_class: type[Any], argv: list[str]) -> list[str]:
    """Return the arguments, ready for Hydra; raise ConfigError for an unknown key, group or option.

    `ood=ucmerced` becomes `data@ood=ucmerced` where the defaults list has such an entry, and a key that
    the spec knows but the YAML does not spell out gets Hydra's `++`.
    """
    flags, texts = _split_flags(argv)
    if any(flag in ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn") for flag in flags):
        return argv  # the user's own YAML: Hydra and the spec check it
    groups, aliases = _groups(), _aliases(name)
    texts = [_unalias(text, aliases) for text in texts]
    overrides = _parse(texts)
    chosen = [o for o in overrides if _group_of(o, groups)]
    for override in chosen:
        _check_option(override, _group_of(override, groups))
    base = compose_raw(name, [_first_choice(o) for o in chosen])
    known = _known_keys(spec_class, base)
    ready = [_ready(o, base, known, [*groups, *aliases]) for o in overrides if o not in chosen]
    return [*flags, *(o.input_line or "" for o in chosen), *ready]


def _split_flags(argv: list[str]) -> tuple[list[str], list[str]]:
    flags, texts, at = [], [], 0
    while at < len(argv):
        if argv[at].startswith("-"):
            width = 2 if argv[at] in _TAKES_VALUE else 1
            flags += argv[at : at + width]
            at += width
        else:
            texts.append(argv[at])
            at += 1
    return flags, texts


def _parse(texts: list[str]) -> list[Override]:
    for text in texts:
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(f"'{text}' is not an override; write key=value, as in seed=1 or encoder=vit")
    try:
        return OverridesParser.create().parse_overrides(texts)
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def _groups() -> dict[str, list[str]]:
    folders = [p for p in conf_dir().iterdir() if p.is_dir() and p.name != "hydra"]
    return {folder.name: sorted(p.stem for p in folder.glob("*.yaml")) for folder in folders}


def _aliases(name: str) -> dict[str, str]:
    """`{'ood': 'data@ood'}` for a defaults list that holds `data@ood: ...`."""
    defaults = OmegaConf.load(conf_dir() / f"{name}.yaml").get("defaults", [])
    keys = [str(key) for item in defaults if OmegaConf.is_dict(item) for key in item]
    return {key.partition("@")[2]: key for key in keys if "@" in key}


def _unalias(text: str, aliases: Mapping[str, str]) -> str:
    key, equals, value = text.partition("=")
    return f"{aliases[key]}{equals}{value}" if equals and key in aliases else text


def _group_of(override: Override, groups: Mapping[str, list[str]]) -> str | None:
    return override.key_or_group if override.key_or_group in groups else None


def _check_option(override: Override, group: str | None) -> None:
    options = _groups()[str(group)]
    for choice in _choices(override):
        if choice not in options:
            shown = override.package or group
            raise ConfigError(f"{shown}: no '{choice}' (there are: {', '.join(options)}){suggest(choice, options)}")


def _choices(override: Override) -> list[str]:
    value = override.value()
    if override.is_sweep_override():
        return [str(item) for item in override.sweep_string_iterator()]
    return [str(value)]


def _first_choice(override: Override) -> str:
    key, _, _ = str(override.input_line).partition("=")
    return f"{key}={_choices(override)[0]}"


def _known_keys(spec_class: type[Any], config: Mapping[str, Any]) -> set[str]:
    known = _flat(config)
    registries = getattr(spec_class, "registries", {})
    for field, info in spec_class.model_fields.items():
        known.add(field)
        inner: Any = info.annotation
        if field in registries and isinstance(config.get(field), Mapping):
            inner = registries[field][str(config[field]["name"])].spec
        if isinstance(inner, type) and issubclass(inner, Spec):
            known |= {f"{field}.{name}" for name in inner.model_fields}
    return known


def _flat(config: Mapping[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in config.items():
        keys.add(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys |= _flat(value, f"{prefix}{key}.")
    return keys


def _ready(override: Override, base: Mapping[str, Any], known: set[str], groups: list[str]) -> str:
    key = override.key_or_group
    if key.startswith("hydra"):
        return str(override.input_line)
    if key not in known and not any(key.startswith(f"{open_}.") for open_ in _open_mappings(base)):
        nearest = suggest(key, [*known, *groups])
        raise ConfigError(f"unknown key '{key}'{nearest} (--help lists the groups and options)")
    line = str(override.input_line)
    spelled_out = key in _flat(base)
    return line if spelled_out or line.startswith(("+", "~")) else f"++{line}"


def _open_mappings(base: Mapping[str, Any]) -> list[str]:
    """Keys whose mapping takes any names, such as options handed through to a library."""
    return [key for key in _flat(base) if key.endswith(("kwargs", "options"))]
