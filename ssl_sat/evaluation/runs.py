"""Fine-tuned artifacts as runs that can be compared: what they are, what was measured, which repeat one another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_sat.artifact import Artifact, find
from ssl_sat.spec import ConfigError, MissingInput, suggest

Flat = dict[str, Any]
_ASIDE = ("seed", "subset.seed", "init.seed")  # what repeats of one experiment differ by
_NAMED = ("encoder", "phases", "optim", "augment", "imbalance", "init", "data")  # `encoder.name` stands for its rest
_PLAIN = ("encoder.name", "phases.name", "optim.name", "init", "data.name")  # told by their values alone


@dataclass(frozen=True)
class Run:
    """One artifact. `config` is flat science: `encoder.name`, `phases.steps.all.lr`, `init.method.name`."""

    path: Path
    fingerprint: str
    data: str  # fingerprint of the pack
    seed: int
    config: Flat
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    card: Mapping[str, Any]
    synthetic: bool

    @property
    def short(self) -> str:
        """The digits of the fingerprint that stand beside a number."""
        return self.fingerprint[:8]

    @cached_property
    def identity(self) -> str:
        """The same for runs that differ by their seeds alone."""
        science = {key: value for key, value in self.config.items() if key not in _ASIDE}
        return json.dumps([self.data, science], sort_keys=True, default=str)


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seeds alone, by seed; `label` says how they differ from the other groups."""

    label: str
    runs: tuple[Run, ...]
    values: Flat = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Fingerprint of the pack."""
        return self.runs[0].data

    @property
    def by_seed(self) -> dict[str, Run]:
        """Runs by their seed; by all their seeds, of the start and the subset too, where that one repeats."""
        if len({run.seed for run in self.runs}) == len(self.runs):
            return {str(run.seed): run for run in self.runs}
        return {"/".join(str(run.config.get(key)) for key in _ASIDE): run for run in self.runs}

    def numbers(self, metric: str) -> dict[str, float]:
        """The metric by seed, of the runs that have it."""
        there = {seed: run.metrics.get(metric) for seed, run in self.by_seed.items()}
        return {seed: float(value) for seed, value in there.items() if value is not None}


def read_run(artifact: Artifact, science: Callable[[Artifact], Mapping[str, Any]]) -> Run:
    """Read an artifact; `science` gives the part of a configuration that decides the result, by names."""
    config = {**science(artifact)}
    metrics, card, provenance = artifact.metrics, artifact.json("model.json"), artifact.json("provenance.json")
    started = config.pop("init", None)
    config["encoder"] = card["encoder"]
    flat = flatten(config) | _data(artifact, science, provenance)
    flat["init"] = metrics.get("initialisation", started)
    if "init" in artifact.record["inputs"]:
        flat |= {f"init.{key}": value for key, value in _start(artifact, science).items() if key != "init"}
    return Run(
        artifact.path, artifact.fingerprint, artifact.record["inputs"]["data"], int(config.get("seed", 0)), flat,
        metrics, provenance, card, artifact.synthetic,
    )  # fmt: skip


def _data(artifact: Artifact, science: Callable[[Artifact], Mapping[str, Any]], provenance: Mapping[str, Any]) -> Flat:
    """What the pack was made of, as `data.name`, `data.split`, ...; its source and fingerprint where it was deleted."""
    fingerprint, outputs = artifact.record["inputs"]["data"], artifact.path.parent.parent
    try:
        found = flatten(science(find("pack", fingerprint, outputs)))
        return {key: value for key, value in found.items() if key.startswith("data.")}
    except MissingInput:
        source = provenance.get("data", {}).get("data", {}).get("source", "data")
        return {"data.name": source, "data.fingerprint": fingerprint[:8]}


def _start(artifact: Artifact, science: Callable[[Artifact], Mapping[str, Any]]) -> Flat:
    """The flat science of the artifact that a run started from; its fingerprint where it was deleted."""
    fingerprint, outputs = artifact.record["inputs"]["init"], artifact.path.parent.parent
    try:
        return flatten(science(find("pretrain", fingerprint, outputs)))
    except MissingInput:
        return {"fingerprint": fingerprint[:8]}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Flat:
    """Nested mappings as one, keys joined by dots; lists of plain values stay, lists of mappings are numbered."""
    flat: Flat = {}
    for key, value in values.items():
        if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            value = {str(at): item for at, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def kept(runs: Iterable[Run], where: Sequence[str]) -> list[Run]:
    """The runs whose configuration has these values; ConfigError for a condition without `=` or an unknown key."""
    chosen = list(runs)
    for condition in where:
        key, equals, wanted = condition.partition("=")
        if not equals:
            raise ConfigError(f"where: '{condition}' is not key=value, as in where=[encoder.name=cnn]")
        check_key(key, chosen, "where")
        chosen = [run for run in chosen if _is(run.config.get(key), wanted)]
    return chosen


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return _text(value) == wanted


def check_key(key: str, runs: Sequence[Run], option: str) -> None:
    """ConfigError that names the nearest key, where no run has this one."""
    known = sorted({name for run in runs for name in run.config})
    if runs and key not in known:
        tops = sorted({name.partition(".")[0] for name in known})
        first = f"the first parts are: {', '.join(tops)}"
        raise ConfigError(f"{option}: no run has '{key}' in its configuration{suggest(key, known)} ({first})")


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs by identity, each with a label of what differs; a run that is there twice counts once.

    Two runs of one identity and seed (of other code or other versions) are a ConfigError that names both.
    """
    unique = {run.fingerprint: run for run in runs}
    members: dict[str, list[Run]] = {}
    for run in unique.values():
        members.setdefault(run.identity, []).append(run)
    for same in members.values():
        if len({tuple(run.config.get(key) for key in _ASIDE) for run in same}) != len(same):
            paths = ", ".join(sorted(str(run.path) for run in same))
            raise ConfigError(
                f"runs of one configuration and one seed cannot be told apart: {paths}. Name those to compare."
            )
    lists = [sorted(same, key=lambda run: run.seed) for same in members.values()]
    labels = labels_of([same[0].config for same in lists])
    differing = _differing([same[0].config for same in lists])
    groups = [
        Group(label, tuple(same), {key: same[0].config.get(key) for key in differing})
        for label, same in zip(labels, lists, strict=True)
    ]
    return sorted(groups, key=lambda group: group.label)


def _differing(configs: Sequence[Flat]) -> list[str]:
    keys = sorted({key for config in configs for key in config} - {*_ASIDE})
    return [key for key in keys if len({_text(config.get(key)) for config in configs}) > 1]


def labels_of(configs: Sequence[Flat]) -> list[str]:
    """What tells each configuration from the others, as short as stays unique; 'all runs' for a single one."""
    differing = _differing(configs)
    stands = [key for key in differing if not _implied(key, differing)]
    for keys in (stands, differing):
        labels = [", ".join(filter(None, (_labelled(key, config, keys) for key in keys))) for config in configs]
        if len(set(labels)) == len(labels):
            return [label or "all runs" for label in labels]
    return labels


def _implied(key: str, differing: Sequence[str]) -> bool:
    """Whether a name says it: `encoder.patch_size` where `encoder.name` differs."""
    top, _, rest = key.partition(".")
    named = "init" if top == "init" else f"{top}.name"
    return bool(rest) and top in _NAMED and key != named and named in differing


def _labelled(key: str, config: Flat, keys: Sequence[str]) -> str:
    value = config.get(key)
    if key in _PLAIN:
        return _text(value)
    if key.endswith(".name") and key.partition(".")[0] in _NAMED:
        return f"{key.removesuffix('.name')}={_text(value)}"
    if value is None and key not in config:
        return ""
    last = key.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in keys) == 1
    return f"{last if alone else '.'.join(key.split('.')[-2:])}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if isinstance(value, (list, dict, bool)) or value is None else str(value)
