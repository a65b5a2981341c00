"""Write the report of an experiment, finished or not: tables, figures, one page to look into.

    python -m ssl_sat.report name=demo                    # as it was last planned and run
    python -m ssl_sat.report name=demo again=true         # also where nothing has changed
    python -m ssl_sat.report name=mine 'artifacts=[outputs/ood_eval/latest,outputs/umap_report/latest]'

An experiment writes its report by itself when it ends; this command writes it in between, after a change of code, or of
artifacts that were made by hand, with everything that went into them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from ssl_sat.spec import ConfigError, MissingInput, Spec, suggest

if TYPE_CHECKING:
    from ssl_sat.graph.plan import Plan


class ReportSpec(Spec):
    """Which experiment, by name; artifacts: a report of these in the place of a plan's."""

    name: str
    artifacts: tuple[str, ...] = ()
    again: bool = False
    outputs: str = "outputs"

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if not name or name.startswith(".") or "/" in name:
            raise ValueError("the name of an experiment is needed, which is a folder of outputs/reports")
        return name

    @field_validator("artifacts", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value


def plan_for(spec: ReportSpec) -> Plan:
    """The plan as it was last made, with today's states; MissingInput names the command that makes one."""
    from ssl_sat.graph.absent import settled
    from ssl_sat.graph.by_hand import plan_of
    from ssl_sat.graph.plan import finished_fingerprint, read_plan

    if spec.artifacts:
        return plan_of(spec.name, spec.artifacts, spec.outputs)
    folder = Path(spec.outputs) / ".graph"
    path = folder / spec.name / "plan.json"
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.glob("*/plan.json"))
        there = f" (there are: {', '.join(known)}){suggest(spec.name, known)}" if known else ""
        raise MissingInput(
            f"no experiment '{spec.name}' was run in {spec.outputs}{there}. Run it: "
            f"python -m ssl_sat.experiment name={spec.name}; or name artifacts=[...]"
        )
    plan = read_plan(path)
    states = {
        node.id: "done" if finished_fingerprint(Path(node.artifact)) == node.fingerprint else "to do"
        for node in plan.nodes
    }
    nodes = [replace(node, state=states[node.id]) for node in plan.nodes]
    return settled(replace(plan, outputs=spec.outputs, nodes=nodes))


def run(spec: ReportSpec) -> None:
    """Write the report and say where it lies."""
    from ssl_sat.graph.report import write_report

    plan = plan_for(spec)
    if not any(node.done for node in plan.nodes):
        raise ConfigError(f"nothing of '{plan.name}' is finished; there is nothing to report on yet")
    page = write_report(plan, spec.again)
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    print(f"  tables: {page.parent / 'tables'}; figures: {page.parent / 'figures'}")


def main() -> None:
    """The command line."""
    from ssl_sat import config

    config.run("report", ReportSpec, run)


if __name__ == "__main__":
    main()
