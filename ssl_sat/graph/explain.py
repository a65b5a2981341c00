"""Why a node must run: which configuration key, file, version or input differs from what was made before.

A node is compared with the artifact that stood for it in this experiment's last run, else with the finished artifact
of its stage that differs in the least.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_sat.artifact import Artifact, outputs_of, write_json
from ssl_sat.graph.endings import read_note
from ssl_sat.graph.plan import Node, Plan, finished_fingerprint
from ssl_sat.graph.stages import stage_named
from ssl_sat.spec import ConfigError, UserError, suggest
from ssl_sat.stage import partial_of

_MADE = "made.json"
_MOST_COMPARED = 200


@dataclass(frozen=True)
class Change:
    """One difference: its kind (config, files, version, input), its key, the old value and the new one."""

    kind: str
    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def remember(plan: Plan) -> None:
    """Note which artifact stands for each finished node, for a later comparison."""
    known = _remembered(plan)
    now = {node.id: {"artifact": node.artifact, "fingerprint": node.fingerprint} for node in plan.nodes if node.done}
    if plan.folder.is_dir() and {**known, **now} != known:
        write_json(plan.folder / _MADE, {**known, **now})


def _remembered(plan: Plan) -> dict[str, dict[str, str]]:
    try:
        return json.loads((plan.folder / _MADE).read_text())
    except (OSError, ValueError):
        return {}


def explain(plan: Plan, wanted: str) -> list[str]:
    """Lines about a node, or about every instance of one that is repeated. ConfigError for an unknown name."""
    nodes = [node for node in plan.nodes if wanted in (node.id, node.node)]
    if not nodes:
        names = [node.id for node in plan.nodes]
        absent = f" ({plan.absent[wanted]})" if wanted in plan.absent else ""
        raise ConfigError(
            f"explain={wanted}: no such node (there are: {', '.join(names)}){suggest(wanted, names)}{absent}"
        )
    return [line for node in nodes for line in _about(plan, node)]


def _about(plan: Plan, node: Node) -> Iterator[str]:
    if node.done:
        yield f"{node.id}: done, {node.artifact} (made {_when(node)}); nothing of it runs"
        yield from (
            f"  the code of {module} has changed since; stale=rerun would make it again" for module in node.stale
        )
        yield from (f"  {need} was made again since; stale=rerun would make it again, too" for need in node.remade)
        return
    yield f"{node.id}: must run, because"
    yield from (f"  {line}" for line in _reasons(plan, node, set()))


def _reasons(plan: Plan, node: Node, seen: set[str]) -> Iterator[str]:
    """Why, with the reasons of changed inputs below them; a node that was named already is not explained again."""
    seen.add(node.id)
    note = read_note(plan.folder, node.id)
    if note.get("fingerprint") == node.fingerprint and note.get("state") in ("failed", "stopped"):
        yield f"the last attempt {note['state']}: {note.get('error')}"
    if partial_of(Path(node.artifact)).is_dir():
        yield f"it was begun and not finished; it goes on from {partial_of(Path(node.artifact))}"
    if finished_fingerprint(Path(node.artifact)) == node.fingerprint:  # then it is stale and to be made again
        yield from (f"the code of {module} has changed since it was made (stale=rerun)" for module in node.stale)
        yield from (f"{name} was made again since it was made, or will be (stale=rerun)" for name in node.remade)
        return
    before, how = _before(plan, node)
    if before is None:
        yield how
        return
    found = changes(node, before)
    if not found:
        yield "raw files or a version changed; which of them was not recorded when the other was made"
    for change in found:
        yield str(change)
        need = _behind(plan, node, change)
        if need is not None and need.id not in seen:
            yield from (f"    {need.id}: {line}" for line in _reasons(plan, need, seen))
    yield f"compared with {before.path.parent.name}/{before.path.name}, {how}"


def _before(plan: Plan, node: Node) -> tuple[Artifact | None, str]:
    """What to compare with, and in what relation it stands to the node; None and the reason where there is nothing."""
    last = _remembered(plan).get(node.id)
    if last is not None and last["fingerprint"] == node.fingerprint:
        return None, f"its artifact is gone: {last['artifact']} was there after an earlier run"
    if last is not None and finished_fingerprint(Path(last["artifact"])) == last["fingerprint"]:
        return Artifact.open(last["artifact"]), "which stood for it in the last run"
    others = outputs_of(node.stage, Path(plan.outputs))[:_MOST_COMPARED]
    if not others:
        return None, f"nothing of the stage {node.stage} was made before"
    return min(
        others, key=lambda other: len(changes(node, other))
    ), "the nearest of its stage; it was never made itself"


def changes(node: Node, before: Artifact) -> list[Change]:
    """What differs between a planned node and an artifact, of all that enters the fingerprint."""
    old, now = _identity(before, node), node.identity
    found = []
    for key, was, value in _differences(old["science"], now["science"]):
        kind = "config" if key.partition(".")[0] in node.config else "files"
        found.append(Change(kind, key, was, value))
    found += [
        Change("version of", key, was, value) for key, was, value in _differences(old["versions"], now["versions"])
    ]
    found += [Change("input", key, was, value) for key, was, value in _differences(old["inputs"], now["inputs"])]
    return found


def _identity(artifact: Artifact, node: Node) -> dict[str, Any]:
    """An artifact's science, versions and inputs; of one made before they were recorded, as far as its config tells."""
    record = artifact.record
    if "science" in record:
        return {key: record[key] for key in ("science", "versions", "inputs")}
    try:
        science = stage_named(node.stage).spec.parse(artifact.config).science()
    except UserError:
        science = artifact.config
    now = node.identity["science"]
    unrecorded = {key: value for key, value in now.items() if key not in node.config}
    return {"science": {**science, **unrecorded}, "versions": node.identity["versions"], "inputs": record["inputs"]}


def _behind(plan: Plan, node: Node, change: Change) -> Node | None:
    """The node that makes a changed input."""
    if change.kind != "input":
        return None
    needed = (plan.by_id[need] for need in node.needs.values())
    return next((other for other in needed if other.fingerprint == change.new and not other.done), None)


_ABSENT = "(absent)"


def _differences(old: Any, new: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys under which two values differ, with both values; lists of one length item by item (`steps.2.lr`)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{at}.{key}" if at else str(key))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{at}.{place}")
    elif json.dumps(old) != json.dumps(new):
        yield at, old, new


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text[:8]
    return text if len(text) <= 100 else f"{text[:97]}..."


def _when(node: Node) -> str:
    try:
        facts = json.loads((Path(node.artifact) / "provenance.json").read_text())
        return f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(facts['started']))} in {facts['seconds']:.0f} s"
    except (OSError, ValueError, KeyError):
        return "at an unknown time"
