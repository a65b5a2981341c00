"""From a graph.yaml to a plan: values are composed, fingerprints computed, nothing is made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_sat.artifact import Ref, remade
from ssl_sat.graph.code import CodeDigests
from ssl_sat.graph.compose import Composer
from ssl_sat.graph.expand import Instance, expand
from ssl_sat.graph.plan import Node, Plan, finished_fingerprint
from ssl_sat.graph.resources import Resources, resources_of
from ssl_sat.graph.sizes import FULL, folder_name, sized
from ssl_sat.graph.spec import read_graph
from ssl_sat.graph.stages import stage_named
from ssl_sat.spec import ConfigError, UserError, WeightsAbsent, suggest
from ssl_sat.stage import Lookup, Stage, StageSpec, partial_of
from ssl_sat.stage import plan as plan_stage


def make_plan(
    path: Path,
    outputs: str = "outputs",
    only: Sequence[str] = (),
    size: str | None = None,
    resources: Mapping[str, Resources] | None = None,
) -> Plan:
    """Plan the graph.yaml at `path` in a size; `only` keeps the named nodes and what they need.

    resources: what the command line says of them, by stage.
    """
    graph = sized(read_graph(path), size)
    planner = _Planner(outputs, resources or {})
    nodes: list[Node] = []
    absent: dict[str, str] = {}
    for instance in _only(expand(graph), only):
        without = [need for need in instance.needs.values() if need in absent]
        if without:
            absent[instance.id] = f"needs {', '.join(without)}"
            continue
        try:
            nodes.append(planner.node(instance))
        except WeightsAbsent as error:
            absent[instance.id] = str(error)
    planner.digests.keep()
    return Plan(
        folder_name(graph, size), graph.question, outputs, str(Path.cwd()), nodes, graph.demo, absent,
        graph=str(path), size=size or FULL,
    )  # fmt: skip


def _only(instances: list[Instance], only: Sequence[str]) -> list[Instance]:
    if not only:
        return instances
    names = {name for instance in instances for name in (instance.id, instance.node)}
    for wanted in only:
        if wanted not in names:
            shown = ", ".join(instance.id for instance in instances)
            raise ConfigError(f"only={wanted}: no such node (there are: {shown}){suggest(wanted, names)}")
    kept: set[str] = set()
    for instance in reversed(instances):  # needed nodes stand before those that need them
        if instance.id in kept or {instance.id, instance.node} & {*only}:
            kept |= {instance.id, *instance.needs.values()}
    return [instance for instance in instances if instance.id in kept]


class _Lookup(Lookup):
    """Inputs of planned nodes: everything is named, and nothing is made while planning."""

    def artifact(self, stage: str, value: str) -> Ref:
        if value == "latest":
            raise ConfigError(
                f"takes the latest {stage}, which would change from run to run; name a node under `needs`"
            )
        return super().artifact(stage, value)


class _Planner:
    def __init__(self, outputs: str, resources: Mapping[str, Resources]) -> None:
        self.outputs, self.resources = outputs, resources
        self.composer = Composer()
        self.refs: dict[Path, Ref] = {}
        self.paths: dict[str, str] = {}
        self.makers: dict[str, tuple[str, Path]] = {}  # fingerprint -> node that makes it, and where
        self.again: set[str] = set()  # fingerprints of what is finished and will be made again
        self.unmade: set[str] = set()  # of what is not finished
        self.lookup = _Lookup(Path(outputs), self.refs)
        self.digests = CodeDigests(Path(outputs) / ".graph" / "code.json")

    def node(self, instance: Instance) -> Node:
        """Plan one instance; those it needs have been planned before."""
        try:
            stage = stage_named(instance.stage)
            paths = {key: self.paths[need] for key, need in instance.needs.items()}
            values = {**self.composer.values(stage, instance.overrides, paths), "outputs": self.outputs}
            asked = self._resources(stage, instance, values)
            spec = stage.spec.parse(values)
            _refuse_implicit_packs(stage, spec)
            ref = plan_stage(stage, spec, self.lookup)
        except UserError as error:
            raise type(error)(f"node '{instance.id}': {error}") from None
        self.refs[ref.path] = ref
        self.paths[instance.id] = str(ref.path)
        state, stale, inputs = self._state(stage, spec, ref)
        self.makers[ref.fingerprint] = instance.id, ref.path
        return Node(
            instance.id, instance.node, instance.stage, dict(instance.variables), list(instance.overrides),
            dict(instance.needs), str(ref.path), ref.fingerprint, dict(ref.inputs or {}), ref.synthetic, state,
            dict(ref.config), stale, asked, dict(ref.identity), inputs,
        )  # fmt: skip

    def _resources(self, stage: Stage, instance: Instance, values: dict[str, Any]) -> dict[str, Any]:
        """What the node asks for; a Trainer on several machines is told their number, which is no science."""
        asked = resources_of(stage.name, self.resources, [instance.resources])
        if asked["gpus"] * asked["nodes"] > 1 and not stage.distributed:
            raise ConfigError(f"{stage.name} runs in one process; gpus={asked['gpus']} nodes={asked['nodes']} is more")
        if asked["nodes"] > 1:
            values["trainer"] = {**values["trainer"], "num_nodes": asked["nodes"]}
        return asked

    def _state(self, stage: Stage, spec: StageSpec, ref: Ref) -> tuple[str, list[str], list[str]]:
        """done, partial or to do; of a finished one, modules whose code has changed since, and inputs made again."""
        if finished_fingerprint(ref.path) != ref.fingerprint:
            self.unmade.add(ref.fingerprint)
            return ("partial" if partial_of(ref.path).is_dir() else "to do"), [], []
        record = json.loads((ref.path / "artifact.json").read_text())
        stale = sorted(module for module, digest in record["code"].items() if self.digests[module] != digest)
        inputs = self._remade(spec, ref, record)
        if (stale or inputs) and spec.stale == "error":
            words = [f"by other code of {', '.join(stale)}"] if stale else []
            words += [f"before {', '.join(inputs)} was made again"] if inputs else []
            raise UserError(f"{ref.path} was made {' and '.join(words)}; choose stale=rerun or stale=warn")
        if not (stale or inputs) or spec.stale != "rerun":
            return "done", stale, inputs
        self.again.add(ref.fingerprint)
        return "to do", stale, inputs

    def _remade(self, spec: StageSpec, ref: Ref, record: Mapping[str, Any]) -> list[str]:
        """Inputs that are not what went into the artifact, or will not be; a missing one may come out the same.

        Under stale=rerun the stage itself compares with the missing one once it is made.
        """
        moving = self.again | (self.unmade if spec.stale == "rerun" else set())
        outputs, paths = ref.path.parent.parent, record.get("input_paths", {})
        makers = {
            slot: self.makers.get(print_, (slot, Path(os.path.normpath(outputs / paths.get(slot, "")))))
            for slot, print_ in record["inputs"].items()
        }
        slots = {slot for slot, print_ in record["inputs"].items() if print_ in moving}
        slots |= {*remade(record, {slot: path for slot, (_, path) in makers.items()})}
        return sorted(makers[slot][0] for slot in slots)


def _refuse_implicit_packs(stage: Stage, spec: StageSpec) -> None:
    """A stage started by hand packs its data by itself; in a graph the pack is a node, or the work would be hidden."""
    for key in ("pack", "ood_pack"):
        own = key == "ood_pack" and getattr(spec, "tier", "data") != "data"  # OOD patches of the model's own pack
        if key in type(spec).model_fields and getattr(spec, key) is None and not own:
            raise ConfigError(f"{stage.name} needs its data packed by a node: add `needs: {{{key}: <a pack node>}}`")
