"""How each node stands now, read from files alone: it disturbs no run and needs none."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssl_sat.graph.endings import read_note
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.progress import clock

STATES = ("done", "running", "queued", "waiting", "failed", "stopped", "partial", "to do")


@dataclass(frozen=True)
class Standing:
    """A node with its state (one of STATES) and what there is to say about it."""

    node: Node
    state: str
    words: str = ""


def standings(plan: Plan) -> list[Standing]:
    """How the nodes stand, in the plan's order."""
    return [_standing(node, read_note(plan.folder, node.id)) for node in plan.nodes]


def _standing(node: Node, note: Mapping[str, Any]) -> Standing:
    if node.done:
        changed = [*node.stale, *node.remade]
        return Standing(node, "done", f"stale: {', '.join(changed)}" if changed else "")
    if note.get("fingerprint") != node.fingerprint:
        return Standing(node, node.state)
    state = str(note.get("state"))
    if state == "running":
        return _running(node, note)
    if state == "queued":
        reason = f", {note['reason']}" if note.get("reason") else ""
        return Standing(node, state, f"job {note.get('job')}{reason}")
    if state == "waiting":
        return Standing(node, state, str(note.get("reason", "")))
    if state in ("failed", "stopped"):
        return Standing(node, state, str(note.get("error") or ""))
    return Standing(node, node.state)


def _running(node: Node, note: Mapping[str, Any]) -> Standing:
    here = note.get("host") == platform.node()
    if here and not note.get("job") and not _lives(int(note["pid"])):
        return Standing(node, "partial" if node.state == "partial" else "to do", "its process is gone")
    words = [f"for {clock(time.time() - float(note['started']))}"]
    words += [f"job {note['job']}"] if note.get("job") else []
    words += [f"on {note['host']}"] if note.get("host") and not here else []
    words += [f"attempt {note['attempt']}"] if int(note.get("attempt", 1)) > 1 else []
    return Standing(node, "running", ", ".join(words))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def counted(found: list[Standing]) -> str:
    """`3 done, 1 running, 4 to do`."""
    counts = {state: sum(item.state == state for item in found) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)
