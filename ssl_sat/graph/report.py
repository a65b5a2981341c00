"""The report of an experiment: tables, figures, one flat metrics.json, and one self-contained page.

    outputs/reports/<name>/report.html      to read and to look into
                           metrics.json     all numbers, flat and sorted: `cmp` compares two runs
                           claims.json      verdicts on the claims beside the graph
                           tables/          CSV and Parquet to compute with, Markdown and LaTeX to publish
                           figures/         PNG, PDF and SVG

Every number comes from an artifact's files and stands beside that artifact's fingerprint.
"""  # fmt: skip

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ssl_sat.artifact import locked, sha256_file, write_json
from ssl_sat.graph.code import CodeDigests
from ssl_sat.graph.collect import collect, flat_metrics
from ssl_sat.graph.plan import Node, Plan

_CODE = (
    *(f"ssl_sat.graph.{name}" for name in ("report", "page", "sections", "collect", "about", "tables", "paired")),
    *(f"ssl_sat.graph.{name}" for name in ("pretraining", "ood", "summary", "expected", "claims", "verdicts", "dag")),
    *(f"ssl_sat.graph.{name}" for name in ("claim_tables", "measured", "status")),
    *(f"ssl_sat.report.{name}" for name in ("html", "map_page", "curves", "tables", "summary_figures", "sprites")),
    *(f"ssl_sat.report.{name}" for name in ("figures", "ood_figures", "ood_table")),
    *(f"ssl_sat.evaluation.{name}" for name in ("comparison", "detectable", "runs", "predictions")),
    *(f"ssl_sat.evaluation.{name}" for name in ("classification", "multilabel")),
    *(f"ssl_sat.ood.{name}" for name in ("comparisons", "delong", "score", "metrics", "curves", "selective")),
)


def write_report(plan: Plan, again: bool = False) -> Path:
    """Write the report unless it is of this state (`again`: in any case); return the page.

    Commands that report on one experiment at once do so one after the other.
    """
    with locked(plan.folder / ".report.lock", f"another command writes the report of {plan.name}; waiting"):
        return _written(plan, again)


def _written(plan: Plan, again: bool) -> Path:
    folder = Path(plan.outputs) / "reports" / plan.name
    page, digest = folder / "report.html", _digest(plan)
    made_of = plan.folder / "report.json"
    there = page.is_file() and (folder / "metrics.json").is_file()
    if there and not again and _recorded(made_of) == digest:
        return page
    from ssl_sat.graph import summary, tables, verdicts
    from ssl_sat.graph.claim_tables import claim_tables
    from ssl_sat.graph.claims import read_claims
    from ssl_sat.graph.ood import near_figures
    from ssl_sat.graph.page import build_page

    items = collect(plan)
    folder.mkdir(parents=True, exist_ok=True)
    judged = verdicts.judge(read_claims(plan), items, plan.absent)
    verdicts.write_judged(folder, judged)
    metrics = dict(sorted({**flat_metrics(plan, items), **verdicts.flat(judged)}.items()))
    write_json(folder / "metrics.json", metrics)
    made = [*claim_tables(judged, plan.absent), *tables.tables(items)]
    tables.write(folder / "tables", plan, items, made)
    drawn = summary.draw(folder / "figures", plan, items, made)
    drawn |= near_figures(folder / "figures", items, summary.is_demo(plan))
    build_page(plan, items, made, drawn, metrics, judged).write(page)
    made_of.parent.mkdir(parents=True, exist_ok=True)
    write_json(made_of, {"digest": digest})
    return page


def _digest(plan: Plan) -> str:
    """Of everything the report depends on: the plan, what its artifacts hold, expectations, code, the page's files."""
    from ssl_sat.graph import claims, expected
    from ssl_sat.report.html import ASSETS

    state = [plan.question, plan.demo, plan.absent, *map(_state, plan.nodes)]
    beside = [read.path_of(plan) for read in (claims, expected)] if plan.graph else []
    files = [*sorted(ASSETS.iterdir()), *(path for path in beside if path.is_file())]
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    digests = CodeDigests(Path(plan.outputs) / ".graph" / "code.json")
    code = {module: digests[module] for module in sorted(_CODE)}
    digests.keep()
    return hashlib.sha256(json.dumps([state, code, contents]).encode()).hexdigest()


def _state(node: Node) -> list[Any]:
    """How a node stands; of a finished one also what it holds, which a fingerprint does not tell after a rerun."""
    listed = Path(node.artifact) / "files.json"
    holds = sha256_file(listed) if node.done and listed.is_file() else None
    return [node.id, node.fingerprint, node.state, node.artifact, node.stale, node.remade, holds]


def _recorded(path: Path) -> str | None:
    return json.loads(path.read_text())["digest"] if path.is_file() else None
