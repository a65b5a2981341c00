"""What an experiment is expected to find, written beside its graph before it ran, and checked after.

expected.json (beside mine.yaml: mine.expected.json), by size; `*` stands for any text, and every match must hold:

    {"small": {"finetune-simclr.test_accuracy.mean": {"value": 0.84, "tolerance": 0.03},
               "ood_eval-seed*.shortcut_probe_auroc": {"min": 0.95},
               "finetune-simclr.test_accuracy.mean - finetune-scratch.test_accuracy.mean": {"min": 0.0}}}

The names are those of the report's metrics.json; ` - ` between two is their difference, in which `*` stands for the
same text in both. What was not measured, because its nodes could not run or have not, is no deviation; a name that they
do not have is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ssl_sat.artifact import write_json
from ssl_sat.graph.collect import group_named
from ssl_sat.graph.expand import expand
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.sizes import FULL, sized
from ssl_sat.graph.spec import read_graph
from ssl_sat.spec import ConfigError, Spec, suggest

MET, MISSED, ABSENT, NAMELESS = "as expected", "not as expected", "not measured", "no such metric"
FILE = "expected.json"
_OF_ALL = ("experiment", "nodes", "nodes_done")  # names in metrics.json that are of no node
_CLAIMS = "claims"


class Expectation(Spec):
    """A value with a tolerance, or bounds. why: where the expectation comes from."""

    value: float | str | None = None
    tolerance: float | None = Field(None, ge=0)
    min: float | None = None
    max: float | None = None
    why: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.value is None and self.min is None and self.max is None:
            raise ValueError("give value and tolerance, or min, max or both")
        if self.value is not None and (self.min is not None or self.max is not None):
            raise ValueError("give either a value or bounds")
        if isinstance(self.value, float) != (self.tolerance is not None):
            raise ValueError("a number needs a tolerance (0 for an exact one), a text or bounds take none")
        return self

    def holds(self, found: Any) -> bool:
        """Whether a metric is as expected. A tolerance includes its ends."""
        if isinstance(self.value, str):
            return found == self.value
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            return False
        if self.value is not None:
            return abs(found - self.value) <= (self.tolerance or 0.0) * (1 + 1e-12)
        return (self.min is None or found >= self.min) and (self.max is None or found <= self.max)

    def __str__(self) -> str:
        if self.value is not None:
            return f"{self.value:g} ± {self.tolerance:g}" if isinstance(self.value, float) else self.value
        bounds = (("at least", self.min), ("at most", self.max))
        return ", ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Finding:
    """One expectation beside what was found; found is None where nothing was measured, or nothing has that name."""

    metric: str
    expected: str
    found: Any
    verdict: str
    why: str = ""


def path_of(plan: Plan) -> Path:
    """Where the expectations of a graph lie."""
    graph = Path(plan.graph)
    return graph.with_name(FILE if graph.name == "graph.yaml" else f"{graph.stem}.{FILE}")


def read_expected(plan: Plan) -> dict[str, Expectation]:
    """The expectations of the plan's size; none where there is no file.

    ConfigError for a file that cannot be read, and for a size or a node that the graph does not have.
    """
    path = path_of(plan)
    if not plan.graph or not path.is_file():
        return {}
    try:
        sizes = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    if not isinstance(sizes, dict) or not all(isinstance(held, dict) for held in sizes.values()):
        raise ConfigError(f'{path}: {{"<size>": {{"<metric>": {{...}}}}}} is needed, as in {{"full": {{...}}}}')
    held = sizes.get(plan.size, {})
    found = {name: Expectation.parse(values, f"{path}: {plan.size}.{name}") for name, values in held.items()}
    _refuse_unknown(sizes, plan, path)
    return found


def _refuse_unknown(sizes: Mapping[str, Mapping[str, Any]], plan: Plan, path: Path) -> None:
    """ConfigError for sizes and nodes that are not there, and for a difference whose `*` cannot be the same text."""
    graph = read_graph(Path(plan.graph))
    known = [FULL, *graph.sizes]
    for size in [size for size in sizes if size not in known]:
        raise ConfigError(
            f"{path}: {graph.name} has no size '{size}' (there are: {', '.join(known)}){suggest(size, known)}"
        )
    ids = {instance.id for instance in expand(sized(graph, plan.size))} | {*plan.by_id, *plan.absent}
    names = {*ids, *map(group_named, ids), _CLAIMS}
    for pattern in sizes.get(plan.size, {}):
        terms = _terms(pattern)
        if len({term.count("*") for term in terms} - {0}) > 1:
            raise ConfigError(
                f"{path}: {pattern}: give both names as many *, which stand for the same text, or one none"
            )
        for term in terms:
            if not _spoken_of(term, names) and not any(fnmatchcase(name, term) for name in _OF_ALL):
                group = term.partition(".")[0]
                raise ConfigError(f"{path}: {pattern}: no nodes are called '{group}'{suggest(group, names)}")


def _terms(pattern: str) -> list[str]:
    return [term.strip() for term in pattern.split(" - ", 1)]


def _spoken_of(term: str, names: Collection[str]) -> set[str]:
    """Those of the names (of nodes and groups, dots in them allowed) that a term may be about."""
    heads = [term[:at] for at in range(len(term)) if term[at] == "."] + ([term] if "*" in term else [])
    return {name for name in names if any(fnmatchcase(name, head) for head in heads)}


def check(
    expected: Mapping[str, Expectation], metrics: Mapping[str, Any], unmeasured: Collection[str] = ()
) -> list[Finding]:
    """Compare flat metrics with what is expected of them; a finding for each metric that a name fits.

    unmeasured: nodes and groups that have no numbers, or not all. What is missing of others has no such metric.
    """
    findings = []
    for pattern, expectation in expected.items():
        for name in [*_fitting(_terms(pattern), metrics)] or [pattern]:
            found = _value(name, metrics)
            nothing = ABSENT if any(_spoken_of(term, unmeasured) for term in _terms(pattern)) else NAMELESS
            verdict = nothing if found is None else MET if expectation.holds(found) else MISSED
            findings.append(Finding(name, str(expectation), found, verdict, expectation.why))
    return findings


def _fitting(terms: list[str], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Names without `*` that the terms stand for: of a difference, those in which it is the same text in both."""
    starred = [term for term in terms if "*" in term]
    if not starred:
        yield " - ".join(terms)
        return
    pattern = re.compile("(.*)".join(re.escape(part) for part in starred[0].split("*")))
    for match in filter(None, map(pattern.fullmatch, metrics)):
        filled = [_filled(term, match.groups()) for term in terms]
        if all(name in metrics for name in filled):
            yield " - ".join(filled)


def _filled(term: str, texts: tuple[str, ...]) -> str:
    first, *rest = term.split("*")
    return first + "".join(text + part for text, part in zip(texts, rest, strict=False))


def _value(name: str, metrics: Mapping[str, Any]) -> Any:
    first, *others = _terms(name)
    if not others:
        return metrics.get(name)
    one, other = metrics.get(first), metrics.get(others[0])
    return one - other if isinstance(one, (int, float)) and isinstance(other, (int, float)) else None


def unmeasured(plan: Plan) -> set[str]:
    """Nodes that could not run, or have not, and the groups of seeds that they are of; verdicts on claims with them."""
    ids = {*plan.absent, *(node.id for node in plan.nodes if not node.done)}
    return {*ids, *map(group_named, ids), *([_CLAIMS] if ids else [])}


def check_report(plan: Plan) -> list[Finding]:
    """Check the numbers of the written report; leave the findings beside them as expected.json."""
    expected = read_expected(plan)
    folder = Path(plan.outputs) / "reports" / plan.name
    if not expected or not (folder / "metrics.json").is_file():
        return []
    findings = check(expected, json.loads((folder / "metrics.json").read_text()), unmeasured(plan))
    write_json(folder / FILE, [asdict(finding) for finding in findings], sort=False)
    return findings


def missed(findings: list[Finding]) -> list[Finding]:
    """Those that are not as expected, and those of a name that nothing has."""
    return [finding for finding in findings if finding.verdict in (MISSED, NAMELESS)]
