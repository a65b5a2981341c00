"""One graph in several sizes: the nodes as written are `full`, a size is a set of changes to them.

    sizes:
      small:
        foreach: {seed: [0, 1, 2]}                 # wherever the variable occurs
        stages: {pretrain: {overrides: [epochs=10]}}
        nodes:
          finetune: {foreach: {start: [scratch, simclr]}}     # two of its variants
          ablation: null                                      # left out

Fingerprints know nothing of sizes: a node that is the same in both is made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_sat.graph.spec import GraphSpec, NodeChange, NodeSpec, SizeSpec, Variant
from ssl_sat.spec import ConfigError, suggest

FULL = "full"
Foreach = dict[str, Any]


def sized(graph: GraphSpec, size: str | None = None) -> GraphSpec:
    """Return the graph in a size, with the defaults of its stages written into its nodes.

    ConfigError for a size, node, stage or variable that is not there.
    """
    size = size or FULL
    if size != FULL and size not in graph.sizes:
        known = [FULL, *graph.sizes]
        raise ConfigError(f"size={size}: {graph.name} has the sizes {', '.join(known)}{suggest(size, known)}")
    changes = graph.sizes.get(size, SizeSpec())
    _refuse_unknown(graph, changes, f"sizes.{size}")
    nodes = {}
    for name, node in graph.nodes.items():
        if changes.nodes.get(name, NodeChange()) is not None:
            nodes[name] = _changed(name, _with_defaults(node, graph), changes)
    own = {"question": changes.question} if changes.question is not None else {}
    return graph.model_copy(update={"nodes": nodes, "stages": {}, "sizes": {}, **own})


def folder_name(graph: GraphSpec, size: str | None) -> str:
    """What the plan and the report of a size are called: `demo`, `demo-small`."""
    return graph.name if size in (None, FULL) else f"{graph.name}-{size}"


def _refuse_unknown(graph: GraphSpec, changes: SizeSpec, where: str) -> None:
    stages = {node.stage for node in graph.nodes.values()}
    variables = {variable for node in graph.nodes.values() for variable in node.foreach}
    for place, names, known in (
        ("stages", graph.stages, stages),
        (f"{where}.nodes", changes.nodes, set(graph.nodes)),
        (f"{where}.stages", changes.stages, stages),
        (f"{where}.foreach", changes.foreach, variables),
    ):
        for name in names:
            if name not in known:
                shown = ", ".join(sorted(known)) or "none"
                raise ConfigError(f"{place}: no '{name}' in this graph (there are: {shown}){suggest(name, known)}")


def _with_defaults(node: NodeSpec, graph: GraphSpec) -> NodeSpec:
    stage = graph.stages.get(node.stage)
    if stage is None:
        return node
    overrides = replaced(stage.overrides, node.overrides)
    return node.model_copy(update={"overrides": overrides, "resources": node.resources.over(stage.resources)})


def _changed(name: str, node: NodeSpec, changes: SizeSpec) -> NodeSpec:
    foreach: Foreach = dict(node.foreach)
    change = changes.nodes.get(name) or NodeChange()
    shared = {variable: values for variable, values in changes.foreach.items() if variable in foreach}
    for variable, values in {**shared, **change.foreach}.items():
        foreach = _with_variable(name, foreach, variable, values)
    overrides, resources = node.overrides, node.resources
    for layer in [changes.stages.get(node.stage), change]:
        if layer is not None:
            overrides = replaced(overrides, layer.overrides)
            resources = layer.resources.over(resources)
    update = {"overrides": overrides, "resources": resources, "needs": {**node.needs, **change.needs}}
    return node.model_copy(update={**update, "foreach": foreach})


def _with_variable(name: str, foreach: Foreach, variable: str, values: Any) -> Foreach:
    """The foreach of a node with one variable changed, in its place."""
    before = foreach.get(variable)
    if values is None:
        return {key: value for key, value in foreach.items() if key != variable}
    if isinstance(before, Mapping) and not isinstance(values, Mapping):
        values = _chosen(name, variable, before, [str(value) for value in values])
    if not values:
        raise ConfigError(f"nodes.{name}: a size leaves '{variable}' without values; null drops the variable")
    return {**foreach, variable: values}


def _chosen(name: str, variable: str, variants: Mapping[str, Variant], labels: Sequence[str]) -> dict[str, Variant]:
    for label in labels:
        if label not in variants:
            known = ", ".join(variants)
            raise ConfigError(
                f"nodes.{name}: a size chooses {variable}={label}, which is none of its variants (there are: {known})"
                f"{suggest(label, variants)}"
            )
    return {label: variants[label] for label in labels}


def replaced(overrides: Iterable[str], others: Sequence[str]) -> tuple[str, ...]:
    """`overrides` followed by `others`, without those that another one of the same key replaces."""
    keys = {_key(text) for text in others}
    return (*(text for text in overrides if _key(text) not in keys), *others)


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~").strip()
