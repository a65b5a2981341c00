"""From nodes with `foreach` to instances: each with its id, overrides and the instances it needs, in order of need."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ssl_sat.graph.resources import Resources
from ssl_sat.graph.spec import GraphSpec, NodeSpec, Scalar, Variant
from ssl_sat.spec import ConfigError, suggest

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Instance:
    """A node for one combination of its variables. needs: override key -> id of an instance."""

    id: str
    node: str
    stage: str
    overrides: tuple[str, ...]
    needs: Mapping[str, str]
    variables: Labels
    resources: Resources


def expand(graph: GraphSpec) -> list[Instance]:
    """Return all instances, needed ones first. ConfigError for an unknown need, a cycle or a doubled id."""
    expansion = _Expansion(graph)
    for name in graph.nodes:
        expansion.visit(name, ())
    return list(expansion.instances.values())


class _Expansion:
    def __init__(self, graph: GraphSpec) -> None:
        self.nodes = graph.nodes
        self.instances: dict[str, Instance] = {}
        self.dims: dict[str, dict[str, list[str]]] = {}  # node -> variable -> texts of its values
        self.by_value: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}

    def visit(self, name: str, path: tuple[str, ...]) -> None:
        """Expand a node after those it needs."""
        if name in path:
            raise ConfigError(f"nodes need one another in a circle: {' -> '.join([*path[path.index(name) :], name])}")
        if name in self.dims:
            return
        node = self.nodes[name]
        inherited: dict[str, list[str]] = {}
        for need in _needs(node):
            other = self._node_of(name, need)
            self.visit(other, (*path, name))
            if need == other:
                inherited.update(self.dims[other])
        own = {variable: [_text(v) for v in values] for variable, values in node.foreach.items()}
        dims = {**inherited, **own}
        for values in itertools.product(*dims.values()):
            self._add(name, node, dict(zip(dims, values, strict=True)))
        self.dims[name] = dims

    def _node_of(self, asking: str, need: str) -> str:
        """The node that a need speaks of: itself, or the longest id that an instance's could start with."""
        starts = [other for other in self.nodes if need == other or need.startswith(f"{other}-")]
        if not starts:
            nearest = suggest(need, self.nodes)
            raise ConfigError(
                f"nodes.{asking}: needs '{need}', which is no node (there are: {', '.join(self.nodes)}){nearest}"
            )
        return max(starts, key=len)

    def _add(self, name: str, node: NodeSpec, variables: dict[str, str]) -> None:
        overrides, needs = [*node.overrides], dict(node.needs)
        used = set(_PLACEHOLDER.findall(" ".join([*overrides, *needs.values()])))
        for variable, values in node.foreach.items():
            if isinstance(values, dict):
                variant: Variant = values[variables[variable]]
                overrides += variant.overrides
                needs.update(variant.needs)
            elif variable not in used:
                overrides.append(f"{variable}={variables[variable]}")
        instance = Instance(
            id=_instance_id(name, node, variables),
            node=name,
            stage=node.stage,
            overrides=tuple(_fill(name, text, variables) for text in overrides),
            needs={key: self._instance(name, _fill(name, need, variables), variables) for key, need in needs.items()},
            variables=variables,
            resources=node.resources,
        )
        if instance.id in self.instances:
            raise ConfigError(f"two nodes are called '{instance.id}'; rename one, or make the values of foreach differ")
        self.instances[instance.id] = instance
        self.by_value[name, frozenset(variables.items())] = instance.id

    def _instance(self, asking: str, need: str, variables: Labels) -> str:
        if need in self.instances and need not in self.nodes:
            return need
        if need not in self.nodes:
            near = suggest(need, self.instances)
            known = ", ".join(i.id for i in self.instances.values() if need.startswith(f"{i.node}-"))
            raise ConfigError(f"nodes.{asking}: needs '{need}', which is no node; there are: {known}{near}")
        wanted = {variable: variables[variable] for variable in self.dims[need]}
        found = self.by_value.get((need, frozenset(wanted.items())))
        if found is None:
            shown = ", ".join(f"{key}={value}" for key, value in wanted.items())
            raise ConfigError(f"nodes.{asking}: there is no '{need}' with {shown}; its own foreach has other values")
        return found


def _needs(node: NodeSpec) -> Iterator[str]:
    """All needs as written, of the node and of its variants."""
    variants = [v for values in node.foreach.values() if isinstance(values, dict) for v in values.values()]
    for needs in [node.needs, *(variant.needs for variant in variants)]:
        yield from needs.values()


def _fill(asking: str, text: str, variables: Labels) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in variables:
            known = ", ".join(variables) or "none"
            raise ConfigError(f"nodes.{asking}: no variable for {match[0]} in '{text}' (there are: {known})")
        return variables[match[1]]

    return _PLACEHOLDER.sub(value, text)


def _instance_id(name: str, node: NodeSpec, variables: Labels) -> str:
    parts = []
    for variable, text in variables.items():
        label = re.sub(r"[^A-Za-z0-9._-]", "_", text)
        named = label[:1].isalpha() and label not in ("true", "false", "null")
        parts.append(label if named else f"{variable.rpartition('.')[2]}{label}")
    return "-".join([name, *parts])


def _text(value: Scalar) -> str:
    """A value as an override writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
