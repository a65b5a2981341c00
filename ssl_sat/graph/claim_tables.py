"""Verdicts on claims, and nodes that could not run, as tables and as lines to print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ssl_sat.graph.collect import group_named
from ssl_sat.graph.tables import Row, Table
from ssl_sat.graph.verdicts import VERDICTS, Judged, Tested
from ssl_sat.report.tables import Column, cell
from ssl_sat.spec import WeightsAbsent

_COLUMNS = (
    Column("claim", "claim"), Column("verdict", "verdict"), Column("test", "test"), Column("said", "this test"),
    Column("found", "found", 4, signed=True), Column("over", "over"), Column("p", "p", 4, floor=True),
    Column("p_holm", "p (Holm)", 4, floor=True), Column("detectable", "detectable", 4), Column("why", "why"),
    Column("source", "source"), Column("fingerprints", "fingerprints"),
)  # fmt: skip
_CAPTION = (
    "Each claim beside the tests of it; found: mean with its 95 % interval, paired by seed where it is a difference. "
    "Supported: the whole interval lies where the claim says; contradicted: on the other side; not shown: neither. "
    "Each test is judged by itself: one in twenty comes out by chance. p (Holm) is adjusted for all of them. "
    "Detectable: what lies nearer to the bound than that was not looked for by so few runs."
)
_FOUND = _COLUMNS[4]


def claim_tables(judged: Sequence[Judged], absent: Mapping[str, str]) -> list[Table]:
    """`claims` and `not_run`, those that have rows."""
    rows = [row for claim in judged for row in _rows(claim)]
    made = [Table("claims", "Claims and verdicts", _CAPTION, _COLUMNS, rows), not_run_table(absent)]
    return [table for table in made if table.rows]


def _rows(claim: Judged) -> list[Row]:
    about: Row = {"claim": claim.says, "verdict": claim.said, "source": claim.source or None}
    return [{**about, **_row(test)} for test in claim.tests] or [{**about, "why": claim.untested}]


def _row(test: Tested) -> Row:
    return {
        "test": test.test, "said": test.verdict, "found": test.found, "p": test.p, "p_holm": test.p_holm,
        "over": f"{test.n} {test.over}" if test.over else None, "detectable": test.detectable, "why": test.why or None,
        "fingerprints": test.fingerprints or None,
    }  # fmt: skip


def not_run_table(absent: Mapping[str, str]) -> Table:
    """Rows that stand for the numbers of nodes whose weights are not here, a row a group of seeds."""
    counts = Counter(group_named(name) for name in absent)
    why = {group_named(name): reason for name, reason in absent.items()}
    rows: list[Row] = [
        {"runs": runs, "outcome": WeightsAbsent.row, "nodes": count, "why": why[runs]} for runs, count in counts.items()
    ]
    columns = (Column("runs", "runs"), Column("outcome", "outcome"), Column("nodes", "nodes"), Column("why", "why"))
    return Table("not_run", "Not run", "Nodes that start from weights of others, and what needs them.", columns, rows)


def counted(judged: Sequence[Judged]) -> str:
    """`3 supported, 1 not testable`."""
    counts = {verdict: sum(claim.verdict == verdict for claim in judged) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def sentence(claim: Judged) -> str:
    """A claim with its verdict, for the summary."""
    return f"{claim.said.capitalize()}: {claim.says} ({claim.words})"


def lines(judged: Sequence[Judged]) -> list[str]:
    """What the command prints: every claim, and under it what each test found."""
    printed = []
    for claim in judged:
        printed.append(f"  {claim.said}: {claim.says}")
        printed += [f"      {_line(test)}" for test in claim.tests]
        printed += [f"      {claim.untested}"] if not claim.tests else []
    return printed


def _line(test: Tested) -> str:
    interval = test.found is not None and test.found.low is not None  # a value without one is told in `why`
    found = f": {cell(test.found, _FOUND)} over {test.n} {test.over}" if interval else ""
    return f"{test.verdict}, {test.test}{found}{f'; {test.why}' if test.why else ''}"
