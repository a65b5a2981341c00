"""Nodes that found the weights they start from absent: no failure, and named with all that needs them.

A file that is not there is known when the graph is planned. Weights of a hub are not: the machine that runs the node
may reach what the one that plans does not. Such a node ends with a status of its own, and every command tries it anew.
"""

from __future__ import annotations

from dataclasses import replace

from ssl_sat.graph.endings import read_note
from ssl_sat.graph.plan import Node, Plan

STATE = "absent"


def is_absent(plan: Plan, node: Node) -> bool:
    """Whether the node has said so when it was last tried as it is now planned."""
    note = read_note(plan.folder, node.id)
    return not node.done and note.get("state") == STATE and note.get("fingerprint") == node.fingerprint


def settled(plan: Plan) -> Plan:
    """The plan with such nodes, and those that need them, among its absent ones."""
    absent, nodes = dict(plan.absent), []
    for node in plan.nodes:
        without = [need for need in node.needs.values() if need in absent]
        if node.done or not (without or is_absent(plan, node)):
            nodes.append(node)
        elif without:
            absent[node.id] = f"needs {', '.join(without)}"
        else:
            absent[node.id] = str(read_note(plan.folder, node.id).get("error") or "weights absent")
    return replace(plan, nodes=nodes, absent=absent)
