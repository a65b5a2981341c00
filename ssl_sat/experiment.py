"""Run an experiment: one graph of stages, planned, run where something is missing, and reported.

    python -m ssl_sat.experiment name=demo
    python -m ssl_sat.experiment graph=./mine.yaml dry=true     # the plan alone
    python -m ssl_sat.experiment name=demo only=finetune-seed0  # that node and what it needs

A node and the same stage run by hand share their artifact. What is done is not done again; after a failure, a
kill or Ctrl-C the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from ssl_sat.spec import ConfigError, Spec, WeightsAbsent, suggest

if TYPE_CHECKING:
    from ssl_sat.graph.launch import Outcome
    from ssl_sat.graph.plan import Plan


class ExperimentSpec(Spec):
    """Which graph, and how to run it."""

    name: str | None = None
    graph: str | None = None
    dry: bool = False
    only: tuple[str, ...] = ()
    jobs: int = Field(1, ge=1)
    outputs: str = "outputs"

    @field_validator("only", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value


def graph_path(spec: ExperimentSpec) -> Path:
    """Return the graph.yaml that is asked for; ConfigError that lists the shipped ones otherwise."""
    from ssl_sat.config import shipped

    folder = shipped("experiments")
    known = sorted(path.parent.name for path in folder.glob("*/graph.yaml"))
    if (spec.name is None) == (spec.graph is None):
        raise ConfigError(f"give either name=<{'|'.join(known)}> or graph=<path of a graph.yaml>")
    if spec.graph is not None:
        return Path(spec.graph)
    if spec.name not in known:
        raise ConfigError(
            f"no experiment '{spec.name}' (there are: {', '.join(known)}){suggest(str(spec.name), known)}"
        )
    return folder / spec.name / "graph.yaml"


def run(spec: ExperimentSpec) -> None:
    """Plan, show, run, report. SystemExit with status 1 when a node failed, 130 when interrupted."""
    from ssl_sat.graph.planner import make_plan

    def plan_again() -> Plan:
        return make_plan(graph_path(spec), spec.outputs, spec.only)

    plan = plan_again()
    show(plan)
    if spec.dry:
        return
    try:
        failed = not plan.all_done and _run(plan, plan_again, spec.jobs)
        _report(plan_again() if failed or not plan.all_done else plan)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", flush=True)
        raise SystemExit(130) from None
    if failed:
        raise SystemExit(1)


def _run(plan: Plan, plan_again: Any, jobs: int) -> bool:
    """Run what is missing; return whether a node failed."""
    from ssl_sat.graph import launch

    with launch.alone(plan.folder) as (lock, waited):
        if waited:
            plan = plan_again()
        outcomes = [] if plan.all_done else launch.launch(plan, lock, jobs)
    return _summary(plan, outcomes)


def show(plan: Plan) -> None:
    """Print the plan as a table, and a line when there is nothing to do."""
    print(f"{plan.name}: {plan.question.strip()}\n")
    rows = [("node", "stage", "state", "artifact"), *((n.id, n.stage, n.state, n.artifact) for n in plan.nodes)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]))
    for module in sorted({module for node in plan.nodes for module in node.stale}):
        names = ", ".join(node.id for node in plan.nodes if module in node.stale)
        print(f"stale: the code of {module} has changed since it made {names} (stale=rerun in a node makes it again)")
    for name, reason in plan.absent.items():
        print(f"{name}: {WeightsAbsent.row} ({reason})")
    print(f"\neverything is already done ({len(plan.nodes)} nodes)" if plan.all_done else "", flush=True)


def _summary(plan: Plan, outcomes: Sequence[Outcome]) -> bool:
    from ssl_sat.graph.launch import last_lines

    counts = {state: sum(o.state == state for o in outcomes) for state in ("done", "made", "failed", "waiting")}
    names = {"done": "done before", "made": "made now", "failed": "failed", "waiting": "not run"}
    print(f"\n{len(outcomes)} nodes: " + ", ".join(f"{counts[s]} {names[s]}" for s in names if counts[s]), flush=True)
    for outcome in outcomes:
        if outcome.state == "failed":
            print(f"\nfailed: {outcome.node.id}: {outcome.reason}")
            print(f"  {plan.folder / 'logs' / outcome.node.id}.log ends with")
            print("\n".join(f"  | {line}" for line in last_lines(plan, outcome.node)))
        elif outcome.state == "waiting":
            print(f"not run: {outcome.node.id} {outcome.reason}")
    if counts["failed"]:
        print("\nRepair the cause and give the same command again: it goes on from here.", flush=True)
    return bool(counts["failed"])


def _report(plan: Plan) -> None:
    from ssl_sat.graph.report import write_report

    print(f"report: {write_report(plan)}", flush=True)


def main() -> None:
    """The command line."""
    from ssl_sat import config

    try:
        config.run("experiment", ExperimentSpec, run)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
