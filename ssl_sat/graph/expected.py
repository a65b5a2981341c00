"""What an experiment is expected to find, written beside its graph before it ran, and checked after.

expected.json (beside mine.yaml: mine.expected.json), by size; `*` stands for any text, and every match must hold:

    {"small": {"finetune-simclr.test_accuracy.mean": {"value": 0.84, "tolerance": 0.03},
               "ood_eval-seed*.shortcut_probe_auroc": {"min": 0.95},
               "finetune-simclr.test_accuracy.mean - finetune-scratch.test_accuracy.mean": {"min": 0.0}}}

The names are those of the report's metrics.json; ` - ` between two is their difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ssl_sat.artifact import write_json
from ssl_sat.graph.plan import Plan
from ssl_sat.spec import ConfigError, Spec

MET, MISSED, ABSENT = "as expected", "not as expected", "not measured"
FILE = "expected.json"


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
    """One expectation beside what was found; found is None where nothing was measured."""

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
    """The expectations of the plan's size; none where there is no file. ConfigError for one that cannot be read."""
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
    return {name: Expectation.parse(values, f"{path}: {plan.size}.{name}") for name, values in held.items()}


def check(expected: Mapping[str, Expectation], metrics: Mapping[str, Any]) -> list[Finding]:
    """Compare flat metrics with what is expected of them; a finding for each metric that a name fits."""
    findings = []
    for pattern, expectation in expected.items():
        names = [name for name in metrics if fnmatchcase(name, pattern)] if "*" in pattern else [pattern]
        for name in names or [pattern]:
            found = _value(name, metrics)
            verdict = ABSENT if found is None else MET if expectation.holds(found) else MISSED
            findings.append(Finding(name, str(expectation), found, verdict, expectation.why))
    return findings


def _value(name: str, metrics: Mapping[str, Any]) -> Any:
    first, minus, second = name.partition(" - ")
    if not minus:
        return metrics.get(name)
    one, other = metrics.get(first.strip()), metrics.get(second.strip())
    return one - other if isinstance(one, (int, float)) and isinstance(other, (int, float)) else None


def check_report(plan: Plan) -> list[Finding]:
    """Check the numbers of the written report; leave the findings beside them as expected.json."""
    expected = read_expected(plan)
    folder = Path(plan.outputs) / "reports" / plan.name
    if not expected or not (folder / "metrics.json").is_file():
        return []
    findings = check(expected, json.loads((folder / "metrics.json").read_text()))
    write_json(folder / FILE, [asdict(finding) for finding in findings], sort=False)
    return findings


def missed(findings: list[Finding]) -> list[Finding]:
    """Those that were measured and are not as expected."""
    return [finding for finding in findings if finding.verdict == MISSED]
