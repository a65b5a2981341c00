"""Run an experiment: one graph of stages, planned, run where something is missing, and reported.

    python -m ssl_sat.experiment name=demo
    python -m ssl_sat.experiment graph=./mine.yaml size=small launch=gpus
    python -m ssl_sat.experiment name=demo dry                    # the plan, and how long it may take
    python -m ssl_sat.experiment name=demo only=finetune-seed0    # that node and what it needs
    python -m ssl_sat.experiment name=demo status                 # how the nodes stand, while they run or later
    python -m ssl_sat.experiment name=demo explain=finetune       # why they must run: what changed
    python -m ssl_sat.experiment name=demo dag                    # the graph as a picture

A node and the same stage run by hand share their artifact. What is done is not done again; after a failure, a
kill or Ctrl-C the same command goes on.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from ssl_sat.graph.settings import LaunchSpec
from ssl_sat.spec import ConfigError, UserError, suggest

if TYPE_CHECKING:
    from ssl_sat.graph.plan import Plan

_WORDS = ("dry", "status", "dag")  # may be given without =true


class ExperimentSpec(LaunchSpec):
    """Which graph, in which size, and how to run it. expected=error: a finding unlike expected.json gives status 1."""

    name: str | None = None
    graph: str | None = None
    size: str | None = None
    dry: bool = False
    status: bool = False
    dag: bool = False
    explain: str | None = None
    only: tuple[str, ...] = ()
    expected: Literal["warn", "error"] = "warn"
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
    """Plan and answer, or plan, show, run, report and check. SystemExit: 1 when a node failed, 130 when interrupted."""
    from ssl_sat.graph import claims, expected, explain
    from ssl_sat.graph.shown import answered, show

    plan = _plan(spec)
    expected.read_expected(plan)  # a mistake in these files shall not wait for the end
    asked = claims.read_claims(plan)
    if not spec.only:
        claims.refuse_unknown(asked, plan)
    if answered(spec, plan):
        return
    show(plan)
    try:
        failed, now = (False, plan) if plan.all_done else _run(plan, spec)
        explain.remember(now)
        missed = _report(now, spec)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", flush=True)
        raise SystemExit(130) from None
    if failed or (missed and spec.expected == "error"):
        raise SystemExit(1)


def _plan(spec: ExperimentSpec) -> Plan:
    from ssl_sat.graph.planner import make_plan

    return make_plan(graph_path(spec), spec.outputs, spec.only, spec.size, spec.resources)


def _run(plan: Plan, spec: ExperimentSpec) -> tuple[bool, Plan]:
    """Run what is missing; return whether a node failed, and the plan as it stands then."""
    from ssl_sat.graph import launch
    from ssl_sat.graph.absent import settled
    from ssl_sat.graph.shown import summary

    with launch.alone(plan.folder) as (lock, waited):
        if waited:
            plan = _plan(spec)
        outcomes = [] if plan.all_done else launch.launch(plan, lock, spec)
        failed = summary(plan, outcomes)
        now = _plan(spec)
        with suppress(UserError):
            _whole(now, spec).write()  # what `ssl_sat.report` reads: all nodes, as they stand in the end
    return failed, settled(now)


def _whole(plan: Plan, spec: ExperimentSpec) -> Plan:
    """The plan of all nodes, where `only` left some out; UserError where those cannot be planned here."""
    return _plan(spec.model_copy(update={"only": ()})) if spec.only else plan


def _report(plan: Plan, spec: ExperimentSpec) -> bool:
    """Write the report, of the whole graph, and check it; return whether something is unlike what was expected."""
    from ssl_sat.graph.absent import settled
    from ssl_sat.graph.expected import check_report, missed
    from ssl_sat.graph.report import write_report
    from ssl_sat.graph.shown import show_absent, show_claims, show_findings
    from ssl_sat.graph.verdicts import read_judged

    try:
        plan = settled(_whole(plan, spec))
    except UserError as error:
        print(f"no report, which is of the whole graph, and that cannot be planned here: {error}", flush=True)
        return False
    page = write_report(plan)
    show_absent(plan)
    findings = check_report(plan)
    show_claims(read_judged(page.parent))
    show_findings(findings)
    print(f"report: {page}", flush=True)
    return bool(missed(findings))


def main() -> None:
    """The command line."""
    from ssl_sat import config

    sys.argv[1:] = [f"{word}=true" if word in _WORDS else word for word in sys.argv[1:]]
    try:
        if any(word.startswith("-") for word in sys.argv[1:]):  # --help and other words to Hydra itself
            config.run("experiment", ExperimentSpec, run)
        else:  # without its command line, which costs a third of what a run takes in which all is done
            with config.messages():
                run(config.compose("experiment", ExperimentSpec, sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
