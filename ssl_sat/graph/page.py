"""The page of an experiment, put together: what was found first, where it comes from after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_sat.graph import sections
from ssl_sat.graph.collect import Finished, flat_metrics, group_named
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.summary import findings, is_demo
from ssl_sat.graph.tables import Table, tables
from ssl_sat.graph.verdicts import Judged
from ssl_sat.report.html import Page
from ssl_sat.spec import WeightsAbsent


def build_page(
    plan: Plan,
    items: Sequence[Finished],
    made: Sequence[Table] | None = None,
    drawn: Mapping[str, Path] | None = None,
    metrics: Mapping[str, Any] | None = None,
    judged: Sequence[Judged] = (),
) -> Page:
    """The page; tables and metrics are made where they are not given, figures left out."""
    made = tables(items) if made is None else made
    metrics = flat_metrics(plan, items) if metrics is None else metrics
    drawn = drawn or {}
    page = Page(f"Experiment {plan.name}", plan.question, demo=is_demo(plan))
    _warnings(page, plan, items)
    page.heading("Summary")
    page.cards(sections.key_numbers(plan, items))
    sections.claims(page, made, judged)
    page.findings(findings(made))
    sections.expected(page, plan, metrics)
    page.heading("Graph")
    sections.graph(page, plan)
    sections.classification(page, made, drawn)
    sections.not_run(page, made)
    sections.maps(page, items)
    sections.ood(page, made, drawn)
    sections.pretraining(page, items, made)
    sections.figures(page, items)
    sections.curves(page, items)
    sections.nodes(page, plan, items)
    sections.provenance(page, items)
    sections.all_metrics(page, items)
    return page


def _warnings(page: Page, plan: Plan, items: Sequence[Finished]) -> None:
    if len(items) < len(plan.nodes):
        page.warning(f"Unfinished: {len(items)} of {len(plan.nodes)} nodes are done; the tables hold those alone.")
    if plan.absent:
        counts = Counter(group_named(name) for name in plan.absent)
        names = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in counts.items())
        page.warning(f"{names}: {WeightsAbsent.row}. Why is told under \u201cNot run\u201d.")
    stale = sorted({module for node in plan.nodes for module in node.stale})
    if stale:
        page.warning(f"Stale: the code of {', '.join(stale)} has changed since it made some of these artifacts.")
    remade = [f"{node.id} ({', '.join(node.remade)})" for node in plan.nodes if node.remade]
    if remade:
        page.warning(f"Stale: made of inputs that were made again since: {', '.join(remade)}.")
