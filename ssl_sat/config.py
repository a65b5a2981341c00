"""Configuration: Hydra composes YAML, our specs validate it. The only module that imports Hydra.

Override keys are checked before Hydra sees them, because its own message suggests nothing.
Hydra's own output folders and logging are off: the artifact is the record of a run.
"""

from __future__ import annotations

import copy
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_sat.spec import ConfigError, Spec, UserError, suggest
from ssl_sat.stage import Stage, StageSpec, execute

_OFF = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra/help=ssl_sat",
)
_OWN_YAML = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_TAKES_VALUE = {*_OWN_YAML, "--package", "-p", "--cfg", "-c", "--info", "-i", "--experimental-rerun"}
_FREE = "Free some space; the same command goes on from what is in the .partial folder."
_ELSEWHERE = "Choose another folder with outputs=..., or change its permissions."
_MENDABLE = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "The file would be larger than its file system, or `ulimit -f`, allows.",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENOTDIR: "A file is where a folder is needed.",
    errno.ENAMETOOLONG: "Choose a folder with a shorter path.",
    errno.ENOLCK: "Its file system has no locks; choose another folder with outputs=...",
    errno.ENOTSUP: "Its file system has no locks or links; choose another folder with outputs=...",
}


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
    with messages(), _sweep_folder(sys.argv) as folder:
        program, *argv = sys.argv
        asked = {"--help", "-h", "--hydra-help", "--shell-completion", "-sc"} & set(argv)
        overrides = argv if asked else check_overrides(name, spec_class, argv)
        flags = _of_own_yaml(_split_flags(argv)[0])

        def with_config(config: DictConfig) -> None:
            # Lightning starts its other processes with this command line: that of the job, not of the sweep
            sys.argv = [program, *flags, *HydraConfig.get().overrides.task]
            GlobalHydra.instance().clear()  # its launcher would otherwise look for Hydra's output folder
            HydraConfig.instance().cfg = None
            with messages():
                task(spec_class.parse(plain(config)))

        sys.argv = [program, *overrides, *_OFF, f"hydra.sweep.dir={_quoted(folder)}"]
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(with_config)()
        except BrokenPipeError:
            if not asked:  # a run is not the interpreter's to end quietly
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `--help | head`


@contextmanager
def _sweep_folder(argv: list[str]) -> Iterator[str]:
    """A folder for what Hydra insists on writing in a sweep (multirun.yaml and empty folders), deleted at the end."""
    if {"--multirun", "-m"} & set(argv) or any(arg.startswith("hydra.mode=") for arg in argv):
        with tempfile.TemporaryDirectory(prefix="ssl_sat-") as folder:
            yield folder
    else:
        yield "."


@contextmanager
def messages() -> Iterator[None]:
    """End with one message, not a traceback, where the user can mend it (status 2) or has interrupted (130)."""
    try:
        yield
    except UserError as error:
        _end(f"error: {error}", 2)
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        at = f"{error.filename}: " if error.filename else ""
        _end(f"error: {at}{error.strerror}. {_MENDABLE[error.errno]}", 2)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from what is in the .partial folder", 130)


def _end(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(status)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain data; ConfigError for a `???` or an interpolation that fails."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def compose(name: str, spec_class: type[Any], overrides: Iterable[str]) -> Any:
    """Return the validated spec of `<name>.yaml` with overrides, as the command line would."""
    return spec_class.parse(compose_raw(name, check_overrides(name, spec_class, list(overrides)), strict=True))


def compose_raw(name: str, overrides: Iterable[str], own: Path | None = None, strict: bool = False) -> dict[str, Any]:
    """Compose with Hydra alone and return plain data; ConfigError with Hydra's own words if it refuses.

    own: a folder of the user's YAML, searched after the shipped one. strict: refuse values that are still `???`.
    """
    return copy.deepcopy(_composed(conf_dir(), name, tuple(overrides), own, strict))


@cache
def _composed(root: Path, name: str, overrides: tuple[str, ...], own: Path | None, strict: bool) -> dict[str, Any]:
    """A composition costs some 70 ms, and checking overrides needs the one that comes after."""
    GlobalHydra.instance().clear()
    search = [f"hydra.searchpath=[{_quoted(f'file://{own}')}]"] if own else []
    try:
        with hydra.initialize_config_dir(str(root), version_base="1.3"):
            config = hydra.compose(name, [*overrides, *search])
            return OmegaConf.to_container(config, resolve=True, throw_on_missing=strict)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from None


def _quoted(text: str) -> str:
    """A string as a value of Hydra's override grammar, whatever is in it."""
    return "'" + text.replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def check_overrides(name: str, spec_class: type[Any], argv: list[str]) -> list[str]:
    """Return the arguments, ready for Hydra; raise ConfigError for an unknown key, group or option.

    `ood=ucmerced` becomes `data@ood=ucmerced` where the defaults list has such an entry, and a key that
    the spec knows but the YAML does not spell out gets Hydra's `++`.
    """
    flags, texts = _split_flags(argv)
    if {flag.partition("=")[0] for flag in flags} & {"--config-path", "-cp", "--config-name", "-cn"}:
        return argv  # the user's own primary YAML: Hydra and the spec check it
    own = _own_yaml(flags)
    groups, (defaults, aliases) = _groups(own), _defaults(name)
    here = {entry.partition("@")[0] for entry in defaults}
    overrides = parse_overrides([_unalias(text, aliases) for text in texts])
    nulls = [o for o in overrides if _entry(o) in defaults and not o.is_delete() and o.value() is None]
    for override in nulls:
        if defaults[_entry(override)] is not None:
            options = ", ".join(groups[override.key_or_group])
            raise ConfigError(f"{override.package or override.key_or_group}: {name} needs one of {options}")
    overrides = [o for o in overrides if o not in nulls]
    chosen = [o for o in overrides if o.key_or_group in groups and (o.is_add() or o.key_or_group in here)]
    for override in chosen:
        _check_option(override, groups[override.key_or_group])
    base = compose_raw(name, [_first_choice(o) for o in chosen], own)
    known = _known_keys(spec_class, base)
    rest = [o for o in overrides if o not in chosen]
    for override in rest:
        _check_key(override.key_or_group, known, name, groups, [*sorted(here), *aliases])
    ready = [_ready(o, base) for o in rest]
    return [*flags, *(o.input_line or "" for o in chosen), *ready]


def _of_own_yaml(flags: list[str]) -> list[str]:
    """Those of the flags that say where YAML lies, each with its value."""
    kept = []
    for at, flag in enumerate(flags):
        if flag.partition("=")[0] in _OWN_YAML:
            kept += flags[at : at + (1 if "=" in flag else 2)]
    return kept


def _own_yaml(flags: list[str]) -> Path | None:
    """The folder of `--config-dir`. It adds to the shipped YAML; a file of a shipped one's name would be ignored."""
    values = [flag.partition("=")[2] for flag in flags if flag.startswith("--config-dir=")]
    values += [flags[at + 1] for at in range(len(flags) - 1) if flags[at] in ("--config-dir", "-cd")]
    if not values:
        return None
    own = Path(values[-1]).expanduser().resolve()
    if not own.is_dir():
        raise ConfigError(f"--config-dir {values[-1]}: no such folder")
    same = [str(p.relative_to(own)) for p in sorted(own.rglob("*.yaml")) if (conf_dir() / p.relative_to(own)).exists()]
    if same:
        raise ConfigError(f"{own}: {', '.join(same)} would be ignored, as a shipped file has that name; rename it")
    return own


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


def parse_overrides(texts: list[str]) -> list[Override]:
    """Parse `key=value` texts by Hydra's grammar; ConfigError for one that is not an override."""
    for text in texts:
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(f"'{text}' is not an override; write key=value, as in seed=1 or encoder=vit")
    return [_parse_one(text) for text in texts]


def _parse_one(text: str) -> Override:
    """Parse an override; a value outside Hydra's grammar (a path with ~, brackets or signs) is taken as it stands."""
    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except HydraException:
        key, _, value = text.partition("=")
    try:
        return parser.parse_override(f"{key}={_quoted(value)}")
    except HydraException as error:
        raise ConfigError(f"'{text}' cannot be read: {str(error).splitlines()[0]}") from None


def _groups(own: Path | None = None) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for root in [conf_dir(), *([own] if own else [])]:
        for folder in (p for p in root.iterdir() if p.is_dir() and p.name != "hydra"):
            found.setdefault(folder.name, set()).update(p.stem for p in folder.glob("*.yaml"))
    return {group: sorted(options) for group, options in found.items()}


def _defaults(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a command chooses by default, entry by entry; and `{'ood': 'data@ood'}` for an entry `data@ood: ...`."""
    defaults = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{name}.yaml")).get("defaults", [])  # type: ignore
    options = {str(key): option for item in defaults if isinstance(item, dict) for key, option in item.items()}
    aliases = {key.partition("@")[2]: key for key in options if "@" in key}
    return options, aliases


def _entry(override: Override) -> str:
    """The entry of a defaults list that an override is about: `encoder` or `data@ood`."""
    return f"{override.key_or_group}@{override.package}" if override.package else str(override.key_or_group)


def _unalias(text: str, aliases: Mapping[str, str]) -> str:
    key, equals, value = text.partition("=")
    return f"{aliases[key]}{equals}{value}" if equals and key in aliases else text


def _check_option(override: Override, options: list[str]) -> None:
    for choice in _choices(override):
        if choice not in options:
            shown = override.package or override.key_or_group
            raise ConfigError(f"{shown}: no '{choice}' (there are: {', '.join(options)}){suggest(choice, options)}")


def _choices(override: Override) -> list[str]:
    """The options that an override names; none for `encoder=null`, `~encoder` and `glob(...)`."""
    value = override.value()
    if value is None or isinstance(value, Glob):
        return []
    if override.is_sweep_override():
        return [str(item) for item in override.sweep_string_iterator()]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _first_choice(override: Override) -> str:
    line, choices = str(override.input_line), _choices(override)
    return f"{line.partition('=')[0]}={choices[0]}" if choices else line


def _known_keys(spec_class: type[Any], config: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Every key that the spec or the YAML knows, at all depths."""
    known = {f"{prefix}{key}" for key in _flat(config)}
    registries = getattr(spec_class, "registries", {})
    for field, info in spec_class.model_fields.items():
        known.add(f"{prefix}{field}")
        values = config.get(field)
        values = values if isinstance(values, Mapping) else {}
        inner = next((a for a in (info.annotation, *get_args(info.annotation)) if _is_spec(a)), None)
        if field in registries and values.get("name") in registries[field].names():
            inner = registries[field][values["name"]].spec
        if inner is not None and get_origin(info.annotation) is dict:  # one spec per name, as of phases
            for key, held in values.items():
                known |= _known_keys(inner, held if isinstance(held, Mapping) else {}, f"{prefix}{field}.{key}.")
        elif inner is not None:
            known |= _known_keys(inner, values, f"{prefix}{field}.")
    return known


def _is_spec(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Spec)


def _flat(config: Mapping[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in config.items():
        keys.add(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys |= _flat(value, f"{prefix}{key}.")
    return keys


def _check_key(key: str, known: set[str], name: str, groups: Iterable[str], choosable: list[str]) -> None:
    if key in known or key.startswith("hydra") or any(key.startswith(f"{open_}.") for open_ in _open_mappings(known)):
        return
    if key in groups and not suggest(key, known):
        raise ConfigError(f"{name} takes no {key} (it chooses {', '.join(choosable) or 'nothing'})")
    parent, _, last = key.rpartition(".")
    nearest = suggest(key, [*known, *choosable])
    if parent in known:  # then a neighbour is meant
        nearest = suggest(last, [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == parent])
        nearest = nearest.replace("'", f"'{parent}.", 1)
    raise ConfigError(f"unknown key '{key}'{nearest} (--help lists the groups and options)")


def _ready(override: Override, base: Mapping[str, Any]) -> str:
    line = str(override.input_line)
    as_is = override.key_or_group.startswith("hydra") or override.key_or_group in _flat(base)
    return line if as_is or line.startswith(("+", "~")) else f"++{line}"


def _open_mappings(known: Iterable[str]) -> list[str]:
    """Keys whose mapping takes any names, such as options handed through to a library."""
    return [key for key in known if key.endswith(("kwargs", "options"))]
