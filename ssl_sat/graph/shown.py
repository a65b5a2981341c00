"""What the command prints: the plan, its states, what came of a run, what was expected of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_sat.graph.absent import settled
from ssl_sat.graph.plan import Plan
from ssl_sat.progress import clock
from ssl_sat.spec import WeightsAbsent

if TYPE_CHECKING:
    from ssl_sat.experiment import ExperimentSpec
    from ssl_sat.graph.estimate import Guess
    from ssl_sat.graph.expected import Finding
    from ssl_sat.graph.launch import Outcome
    from ssl_sat.graph.verdicts import Judged

_LINES = 12


def answered(spec: ExperimentSpec, plan: Plan) -> bool:
    """Answer a question that runs nothing; return whether there was one."""
    if spec.status or spec.dag:
        plan = settled(plan)
    if spec.dry:
        from ssl_sat.graph.estimate import guesses, in_words

        found = guesses(plan)
        show(plan, found)
        print(in_words(plan, found, spec.at_a_time()))
    elif spec.status:
        show_status(plan)
    elif spec.explain is not None:
        from ssl_sat.graph.explain import explain

        print("\n".join(explain(plan, spec.explain)))
    elif spec.dag:
        from ssl_sat.graph import dag

        print("\n".join(str(path) for path in dag.write(plan, Path(plan.outputs) / "reports" / plan.name)))
    return spec.dry or spec.status or spec.dag or spec.explain is not None


def show(plan: Plan, found: Mapping[str, Guess] | None = None) -> None:
    """Print the plan as a table, with the time that each node may take; and a line when there is nothing to do."""
    head = ["node", "stage", "state", *(["about"] if found else []), "artifact"]
    rows = [head]
    for node in plan.nodes:
        guess = [clock(found[node.id].seconds) if node.id in found else ""] if found else []
        rows.append([node.id, node.stage, node.state, *guess, node.artifact])
    print(f"{plan.name}: {plan.question.strip()}\n")
    table(rows)
    notices(plan)
    print(f"\neverything is already done ({len(plan.nodes)} nodes)" if plan.all_done else "", flush=True)


def notices(plan: Plan) -> None:
    """Lines on stale code, inputs made again, and absent weights."""
    for module in sorted({module for node in plan.nodes for module in node.stale}):
        names = ", ".join(node.id for node in plan.nodes if module in node.stale)
        print(f"stale: the code of {module} has changed since it made {names} (stale=rerun in a node makes it again)")
    for need in sorted({need for node in plan.nodes for need in node.remade}):
        names = ", ".join(node.id for node in plan.nodes if need in node.remade)
        print(f"stale: {need} was made again, or will be, since it went into {names} (stale=rerun makes these again)")
    for name, reason in plan.absent.items():
        print(f"{name}: {WeightsAbsent.row} ({reason})")


def show_status(plan: Plan) -> None:
    """Print how each node stands."""
    from ssl_sat.graph.status import counted, standings

    found = standings(plan)
    print(f"{plan.name}: {counted(found)}\n")
    table(
        [["node", "stage", "state", ""], *([item.node.id, item.node.stage, item.state, item.words] for item in found)]
    )
    notices(plan)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with aligned columns; the last one is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())


def summary(plan: Plan, outcomes: Sequence[Outcome]) -> bool:
    """Print what came of a run, at the end the failures with the last lines of their logs; return whether any."""
    from ssl_sat.graph.launch import last_lines

    names = {"done": "done before", "made": "made now", "failed": "failed", "absent": "weights absent"}
    names["waiting"] = "not run"
    counts = {state: sum(o.state == state for o in outcomes) for state in names}
    print(f"\n{len(outcomes)} nodes: " + ", ".join(f"{counts[s]} {names[s]}" for s in names if counts[s]), flush=True)
    for outcome in (outcome for outcome in outcomes if outcome.state == "waiting"):
        print(f"not run: {outcome.node.id} {outcome.reason}")
    for outcome in (outcome for outcome in outcomes if outcome.state == "failed"):
        print(f"\nfailed: {outcome.node.id}: {outcome.reason}")
        print(f"  {plan.folder / 'logs' / outcome.node.id}.log ends with")
        print("\n".join(f"  | {line}" for line in last_lines(plan, outcome.node, _LINES)))
    if counts["failed"]:
        print("\nRepair the cause and give the same command again: it goes on from here.", flush=True)
    return bool(counts["failed"])


def show_absent(plan: Plan) -> None:
    """Print what could not run for want of weights, seeds together."""
    from ssl_sat.graph.claim_tables import not_run_table

    for row in not_run_table(plan.absent).rows:
        print(f"{row['runs']}: {row['outcome']} ({row['why']})")


def show_claims(judged: Sequence[Judged]) -> None:
    """Print every claim with its verdict and what each test found."""
    if judged:
        from ssl_sat.graph.claim_tables import counted, lines

        print(f"\nclaims: {counted(judged)}")
        print("\n".join(lines(judged)))


def show_findings(findings: Sequence[Finding]) -> None:
    """Print what was expected beside what was found."""
    if not findings:
        return
    from ssl_sat.graph.expected import MET

    met = sum(finding.verdict == MET for finding in findings)
    print(f"\nexpected.json: {met} of {len(findings)} as expected")
    rows = [["metric", "expected", "found", ""]]
    for finding in findings:
        found = f"{finding.found:.6g}" if isinstance(finding.found, float) else str(finding.found)
        rows.append([finding.metric, finding.expected, "-" if finding.found is None else found, finding.verdict])
    table([[f"  {row[0]}", *row[1:]] for row in rows])
