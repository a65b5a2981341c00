"""What a graph.yaml holds, read strictly: an unknown or doubled key is an error with its place.

name: demo
question: Does pretraining help here?
nodes:
  pack:
    stage: pack
    overrides:
      - data=scenes
  finetune:
    stage: finetune
    needs: {pack: pack}          # the override `pack=<path of that node's artifact>`
    foreach: {seed: [0, 1]}      # twice: with seed=0 and with seed=1
stages:
  finetune: {overrides: [trainer=bf16], resources: {gpus: 1}}    # of all nodes of a stage
sizes:
  small: {foreach: {seed: [0]}, nodes: {pack: {overrides: [data.patches_per_class=8]}}}
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from ssl_sat.graph.resources import Resources
from ssl_sat.spec import ConfigError, MissingInput, Spec

Scalar = bool | int | float | str | None
_NODE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"a list of key=value is needed, as in ['{value}']")
    for item in value or ():
        if not isinstance(item, str):
            raise ValueError(f"write key=value as one text, quoted where it holds brackets or braces (got {item!r})")
    return value


class Variant(Spec):
    """One choice of a `foreach` that changes more than one value."""

    overrides: tuple[str, ...] = ()
    needs: dict[str, str] = Field(default_factory=dict)

    _are_texts = field_validator("overrides", mode="before")(_texts)


class NodeSpec(Spec):
    """A stage with its overrides; `needs` gives override keys the artifact of another node.

    foreach: variable -> values, or variable -> {label: variant}. A node is repeated for each combination, also of
    the variables of the nodes it needs. `{variable}` in overrides and needs stands for the value; a variable of the
    node's own that is used nowhere so is itself an override.
    """

    stage: str
    overrides: tuple[str, ...] = ()
    needs: dict[str, str] = Field(default_factory=dict)
    foreach: dict[str, list[Scalar] | dict[str, Variant]] = Field(default_factory=dict)
    resources: Resources = Resources()

    _are_texts = field_validator("overrides", mode="before")(_texts)

    @field_validator("foreach")
    @classmethod
    def _not_empty(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, values in value.items():
            if not values:
                raise ValueError(f"'{name}' has no values")
        return value


class StageDefaults(Spec):
    """Overrides and resources of every node of a stage; a node's own of the same key win."""

    overrides: tuple[str, ...] = ()
    resources: Resources = Resources()

    _are_texts = field_validator("overrides", mode="before")(_texts)


class NodeChange(Spec):
    """What a size changes of a node: overrides replace those of the same key, needs and resources are merged.

    foreach replaces the variables that it names: by other values or variants, by some of the variants (a list of
    their labels), or, with null, by none.
    """

    overrides: tuple[str, ...] = ()
    needs: dict[str, str] = Field(default_factory=dict)
    foreach: dict[str, list[Scalar] | dict[str, Variant] | None] = Field(default_factory=dict)
    resources: Resources = Resources()

    _are_texts = field_validator("overrides", mode="before")(_texts)


class SizeSpec(Spec):
    """One size of an experiment, as changes to its nodes. A node of `null` is left out.

    foreach: values of variables wherever they occur; stages: as in the graph, before the nodes' own changes.
    """

    question: str | None = None
    foreach: dict[str, list[Scalar] | dict[str, Variant] | None] = Field(default_factory=dict)
    stages: dict[str, StageDefaults] = Field(default_factory=dict)
    nodes: dict[str, NodeChange | None] = Field(default_factory=dict)


class GraphSpec(Spec):
    """An experiment: its question and its nodes. The nodes as written are the size `full`."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    question: str
    demo: bool = False
    nodes: dict[str, NodeSpec]
    stages: dict[str, StageDefaults] = Field(default_factory=dict)
    sizes: dict[str, SizeSpec] = Field(default_factory=dict)


def read_graph(path: Path) -> GraphSpec:
    """Read and check a graph.yaml. Raises MissingInput or ConfigError."""
    if not path.is_file():
        raise MissingInput(f"no graph at {path}; give the path of a YAML file, as in graph=./mine.yaml")
    try:
        values = yaml.load(path.read_text(), Loader=StrictLoader)
    except yaml.YAMLError as error:
        hint = "Within [ ] an override that holds brackets or braces needs quotes."
        raise ConfigError(f"{path} is not YAML: {error}\n{hint}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a mapping with name, question and nodes is needed")
    nodes = values.get("nodes")
    if not isinstance(nodes, dict) or not nodes:
        raise ConfigError(f"{path}: `nodes` must map at least one node to its stage")
    parsed: dict[str, Any] = {"nodes": {key: _node(path, key, node) for key, node in nodes.items()}}
    for part, kind in (("stages", StageDefaults), ("sizes", SizeSpec)):
        held = values.get(part, {})
        if isinstance(held, dict):  # otherwise the graph's own check says what is wrong
            parsed[part] = {key: _part(kind, item, f"{path}: {part}.{key}") for key, item in held.items()}
    return GraphSpec.parse({**values, **parsed}, str(path))


def _part(kind: type[Spec], values: Any, where: str) -> Any:
    """A stage's defaults, a size or a size's node, each parsed by itself so that a mistake has a suggestion."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: a mapping is needed (got {values!r})")
    nodes = values.get("nodes")
    if kind is SizeSpec and isinstance(nodes, dict):
        changes = {k: None if v is None else _part(NodeChange, v, f"{where}.nodes.{k}") for k, v in nodes.items()}
        values = {**values, "nodes": changes}
    return kind.parse(values, where)


def _node(path: Path, key: Any, values: Any) -> NodeSpec:
    if not isinstance(key, str) or not _NODE_ID.fullmatch(key):
        raise ConfigError(f"{path}: '{key}' cannot name a node; use letters, digits, - and _, a letter first")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: nodes.{key}: a mapping with at least `stage` is needed")
    return NodeSpec.parse(values, f"{path}: nodes.{key}")


class StrictLoader(yaml.SafeLoader):
    """YAML itself lets the last of two equal keys win, silently; and reads 1e-3 as a text, which is harmless here."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys all differ."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is there twice", node.start_mark)
        return super().construct_mapping(node, deep)
