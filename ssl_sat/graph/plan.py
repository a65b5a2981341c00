"""The plan of an experiment: every node with the artifact it makes, known before anything runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssl_sat.artifact import write_atomic

FORMAT = "ssl_sat.plan/1"


@dataclass(frozen=True)
class Node:
    """A node of a plan. needs: override key -> node id; inputs: slot -> fingerprint; config: the resolved spec.

    resources: what it asks of a machine. identity: what its fingerprint is of; known to the planner, not written.
    stale: modules whose code has changed since it was made. remade: needed nodes (slots, of inputs that no node makes)
    that were made again since, or are about to be.
    """

    id: str
    node: str
    stage: str
    variables: dict[str, str]
    overrides: list[str]
    needs: dict[str, str]
    artifact: str
    fingerprint: str
    inputs: dict[str, str]
    synthetic: bool
    state: str
    config: dict[str, Any]
    stale: list[str] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    remade: list[str] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether its artifact is finished."""
        return self.state == "done"

    @property
    def again(self) -> bool:
        """Whether it is finished and to be made again."""
        return not self.done and bool(self.stale or self.remade)


@dataclass(frozen=True)
class Plan:
    """An experiment's nodes, needed ones first, and where things lie; `cwd` is what relative paths start from.

    absent: nodes that cannot run because weights of others are not here, or need one that cannot, and why.
    graph: the path of the graph.yaml; size: in which size it is planned.
    """

    name: str
    question: str
    outputs: str
    cwd: str
    nodes: list[Node]
    demo: bool = False
    absent: dict[str, str] = field(default_factory=dict)
    format: str = FORMAT
    graph: str = ""
    size: str = "full"

    @property
    def folder(self) -> Path:
        """Markers, logs and the plan itself."""
        return Path(self.outputs) / ".graph" / self.name

    @property
    def by_id(self) -> dict[str, Node]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    @property
    def all_done(self) -> bool:
        """Whether nothing is left to run."""
        return all(node.done for node in self.nodes)

    def write(self) -> Path:
        """Write `plan.json` into the plan's folder, a node a line (indented, 1,000 nodes would take seconds)."""
        path = self.folder / "plan.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = asdict(self)
        lines = [json.dumps({k: v for k, v in node.items() if k != "identity"}) for node in values.pop("nodes")]
        head, body = json.dumps(values), ",\n".join(lines)
        write_atomic(path, f'{head[:-1]}, "nodes": [\n{body}\n]}}\n'.encode())
        return path


def read_plan(path: Path) -> Plan:
    """Read a plan.json."""
    values = json.loads(path.read_text())
    return Plan(**{**values, "nodes": [Node(**node) for node in values["nodes"]]})


def finished_fingerprint(artifact: Path) -> str | None:
    """The fingerprint of a finished artifact; None when it is absent or unfinished."""
    try:
        return str(json.loads((artifact / "artifact.json").read_text())["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None
