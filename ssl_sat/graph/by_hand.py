"""A plan of artifacts that were made by hand: the named ones and everything that went into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_sat.artifact import Artifact, find
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.spec import MissingInput


def plan_of(name: str, paths: Sequence[str], outputs: str, question: str = "") -> Plan:
    """A node an artifact, needed ones first; inputs that were deleted are left out."""
    nodes: dict[str, Node] = {}
    for path in paths:
        _add(Artifact.open(path), Path(outputs), nodes)
    return Plan(
        name, question or f"{len(paths)} artifacts made by hand", outputs, str(Path.cwd()), list(nodes.values())
    )


def _add(artifact: Artifact, outputs: Path, nodes: dict[str, Node]) -> None:
    if artifact.fingerprint in nodes:
        return
    needs: dict[str, str] = {}
    for slot, fingerprint in artifact.record["inputs"].items():
        found = _input(artifact, slot, fingerprint, outputs)
        if found is not None:
            _add(found, outputs, nodes)
            needs[slot] = nodes[fingerprint].id
    seed = _seed(artifact, needs, nodes)
    choices = str(artifact.record["choices"]).replace(f"-s{seed}", f"-seed{seed}", 1)
    ident = f"{artifact.stage}-{choices}"
    if any(node.id == ident for node in nodes.values()):
        ident = f"{ident}-{artifact.fingerprint[:8]}"
    nodes[artifact.fingerprint] = Node(
        ident, ident.replace(f"-seed{seed}", "", 1), artifact.stage, {} if seed is None else {"seed": seed}, [], needs,
        str(artifact.path), artifact.fingerprint, dict(artifact.record["inputs"]), artifact.synthetic, "done",
        artifact.config,
    )  # fmt: skip


def _seed(artifact: Artifact, needs: dict[str, str], nodes: dict[str, Node]) -> str | None:
    """The seed that repeats differ by: that of the model where there is one, else its own."""
    by_id = {node.id: node for node in nodes.values()}
    for slot in ("features", "model"):
        if slot in needs and "seed" in by_id[needs[slot]].variables:
            return by_id[needs[slot]].variables["seed"]
    config = artifact.config
    return str(config["seed"]) if "seed" in config and artifact.stage != "pack" else None


def _input(artifact: Artifact, slot: str, fingerprint: str, outputs: Path) -> Artifact | None:
    path = artifact.record.get("input_paths", {}).get(slot)
    own = artifact.path.parent.parent
    stage = Path(path).parts[-2] if path else slot
    for root in (own, outputs):
        try:
            return find(stage, fingerprint, root)
        except MissingInput:
            continue
    return None
