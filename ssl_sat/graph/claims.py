"""What others have claimed, written beside a graph as comparisons of its numbers, so that runs and not people judge it.

claims.yaml (beside mine.yaml: mine.claims.yaml):

    names:                                  # {word} in tests, by size, where nodes are called differently
      small: {resnet: resnet18}
    claims:
      pretraining_helps:
        says: Pretraining raises accuracy.
        source: the paper, table 2
        tests:
          - finetune-{resnet}-simclr.test_accuracy - finetune-{resnet}-scratch.test_accuracy     # above 0
          - {of: finetune-{resnet}-simclr.test_accuracy, above: 0.6, below: 0.7}                 # a plateau
      takes_an_hour:
        says: It takes an hour on their machine.
        untested: their machine is not here

A name is a group of the report's metrics.json with its metric, without seed; `*` stands for any text. How a test is
judged stands in `ssl_sat.graph.verdicts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from ssl_sat.graph.collect import group_named
from ssl_sat.graph.measured import unmeasurable
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.graph.spec import StrictLoader
from ssl_sat.spec import ConfigError, Spec, suggest

FILE = "claims.yaml"
_SIGN = re.compile(r"\s+([-+])\s+")
_WORD = re.compile(r"\{([A-Za-z_]+)\}")


class Comparison(Spec):
    """One comparison. of: a name, or names joined by ` - ` and ` + `. It speaks for the claim between the bounds.

    above, below: without either, above 0. over: what is drawn anew in the interval, `seeds`, or what `*` stands for
    (classes held out one by one).
    """

    of: str
    above: float | None = None
    below: float | None = None
    over: Literal["seeds", "*"] = "seeds"

    @model_validator(mode="before")
    @classmethod
    def _has_a_bound(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("above") is None and values.get("below") is None:
            return {**values, "above": 0.0}
        return values

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"nothing is above {self.above:g} and below {self.below:g}")
        if self.over == "*" and not all("*" in name for _, name in self.terms):
            raise ValueError("over: '*' needs a * in every name")
        for _, name in self.terms:
            if "." not in name:
                raise ValueError(f"'{name}' is no <group>.<metric>")
        return self

    @property
    def terms(self) -> list[tuple[float, str]]:
        """Signs and names."""
        first, *rest = _SIGN.split(self.of.strip())
        return [(1.0, first), *((1.0 if s == "+" else -1.0, n) for s, n in zip(rest[::2], rest[1::2], strict=True))]

    def __str__(self) -> str:
        bounds = [f"{sign} {bound:g}" for sign, bound in ((">", self.above), ("<", self.below)) if bound is not None]
        return f"{self.of} {' and '.join(bounds)}"


class Claim(Spec):
    """A sentence, where it stands, and what would tell. untested: why there is no test, in this size or in any."""

    says: str
    source: str = ""
    tests: tuple[Comparison, ...] = ()
    sizes: tuple[str, ...] = ()
    untested: str = ""

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if not self.tests and not self.untested:
            raise ValueError("give tests, or say in `untested` why there are none")
        if self.sizes and not self.untested:
            raise ValueError("say in `untested` why the other sizes do not test it")
        return self


class ClaimsSpec(Spec):
    """All of a file. names: by size, the words that tests may use."""

    names: dict[str, dict[str, str]] = Field(default_factory=dict)
    claims: dict[str, Claim]


@dataclass(frozen=True)
class Asked:
    """A claim with the tests that this size has for it; none: `untested` says why."""

    id: str
    says: str
    source: str
    tests: tuple[Comparison, ...]
    untested: str


def path_of(plan: Plan) -> Path:
    """Where the claims of a graph lie."""
    graph = Path(plan.graph)
    return graph.with_name(FILE if graph.name == "graph.yaml" else f"{graph.stem}.{FILE}")


def read_claims(plan: Plan) -> list[Asked]:
    """The claims as the plan's size tests them; none where there is no file. ConfigError for one that is wrong."""
    path = path_of(plan) if plan.graph else None
    if path is None or not path.is_file():
        return []
    try:
        values = yaml.load(path.read_text(), Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("claims"), dict):
        raise ConfigError(f"{path}: `claims` must map at least one name to what it says")
    parsed = {name: _claim(item, f"{path}: claims.{name}") for name, item in values["claims"].items()}
    spec = ClaimsSpec.parse({**values, "claims": parsed}, str(path))
    return [_asked(name, claim, plan.size, spec, path) for name, claim in spec.claims.items()]


def _claim(item: Any, where: str) -> Claim:
    """A claim, its tests parsed by themselves so that a mistake in one has its place and a suggestion."""
    if not isinstance(item, dict):
        raise ConfigError(f"{where}: a mapping with at least `says` is needed (got {item!r})")
    tests = item.get("tests", [])
    if not isinstance(tests, list):
        raise ConfigError(f"{where}.tests: a list is needed, as in ['a.test_accuracy - b.test_accuracy']")
    parsed = [
        Comparison.parse(test if isinstance(test, dict) else {"of": test}, f"{where}.tests.{at}")
        for at, test in enumerate(tests)
    ]
    return Claim.parse({**item, "tests": parsed}, where)


def _asked(name: str, claim: Claim, size: str, spec: ClaimsSpec, path: Path) -> Asked:
    tested = not claim.sizes or size in claim.sizes
    words = spec.names.get(size, {})

    def word(match: re.Match[str]) -> str:
        if match[1] not in words:
            known = ", ".join(words) or "none"
            raise ConfigError(f"{path}: claims.{name}: names.{size} has no {match[0]} (there are: {known})")
        return words[match[1]]

    tests = tuple(test.model_copy(update={"of": _WORD.sub(word, test.of)}) for test in claim.tests if tested)
    return Asked(name, claim.says, claim.source, tests, claim.untested)


def refuse_unknown(asked: Iterable[Asked], plan: Plan) -> None:
    """ConfigError for a test of a group that the plan does not have, or of a metric that the group's stage does not
    measure, or it would never be judged.
    """
    groups: dict[str, list[Node]] = {group_named(name): [] for name in plan.absent}
    for node in plan.nodes:
        groups.setdefault(group_named(node.id), []).append(node)
    for claim in asked:
        for _, name in (term for test in claim.tests for term in test.terms):
            group, _, metric = name.rpartition(".")
            fitting = [known for known in groups if fnmatchcase(known, group)]
            if not fitting:
                raise ConfigError(f"claims.{claim.id}: no nodes are called '{group}'{suggest(group, groups)}")
            known = unmeasurable(metric, [node for fits in fitting for node in groups[fits]])
            if known is not None:
                raise ConfigError(f"claims.{claim.id}: {group} does not measure '{metric}'{suggest(metric, known)}")
