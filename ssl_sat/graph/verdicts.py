"""Claims against an experiment's numbers: supported, contradicted, not shown, or not testable with what was run.

A test is a number for each seed: of a difference, that of runs which share the seed (and what `*` stands for), so that
its interval is paired. It is Student's over seeds, or over what `*` stands for; where a difference of accuracies has
the predictions of its runs, and these make it wider, the interval over test patches takes its place.

    supported       the whole interval lies between the test's bounds
    contradicted    the whole interval lies on the other side of one
    not shown       a bound lies within the interval: what is smaller than `detectable` could not have been seen
    not testable    a name is not there, or there is one value and so no interval

A claim of several tests is contradicted where one is, supported where all that could be tested are; where some could
not, the verdict says how many were.
"""

# S seeds

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssl_sat.artifact import write_json
from ssl_sat.graph.claims import Asked, Comparison
from ssl_sat.graph.collect import Finished, group_named, group_of
from ssl_sat.report.tables import Estimate
from ssl_sat.spec import WeightsAbsent, suggest

SUPPORTED, CONTRADICTED, OPEN, UNTESTABLE = "supported", "contradicted", "not shown", "not testable"
FILE = "claims.json"
VERDICTS = (SUPPORTED, CONTRADICTED, OPEN, UNTESTABLE)
Key = tuple[str, str]  # seed, what * stands for
Numbers = dict[Key, float]


@dataclass(frozen=True)
class Tested:
    """One test: found with its 95 % interval, over how many values of what; why: what is missing, or what is left open.

    p, p_holm: of the t-test against the only bound, and adjusted for all tests of the experiment.
    detectable: the smallest distance from the nearest bound that would have been shown with probability .80.
    """

    test: str
    verdict: str
    found: Estimate | None = None
    n: int = 0
    over: str = ""
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    why: str = ""
    fingerprints: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim with its tests and what they say together."""

    id: str
    says: str
    source: str
    verdict: str
    tests: tuple[Tested, ...]
    untested: str = ""

    @property
    def said(self) -> str:
        """The verdict; of how many tests, where not all could be made: `supported (1 of 4 tested)`."""
        made = sum(test.verdict != UNTESTABLE for test in self.tests)
        return f"{self.verdict} ({made} of {len(self.tests)} tested)" if 0 < made < len(self.tests) else self.verdict

    @property
    def words(self) -> str:
        """How many tests say what; why there is none."""
        if not self.tests:
            return self.untested
        counts = {verdict: sum(test.verdict == verdict for test in self.tests) for verdict in VERDICTS}
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return f"{len(self.tests)} test{'s' if len(self.tests) > 1 else ''}: {said}"


def judge(asked: Sequence[Asked], items: Sequence[Finished], absent: Mapping[str, str] | None = None) -> list[Judged]:
    """Judge claims by finished nodes. absent: nodes that could not run for want of weights."""
    from ssl_sat.evaluation.detectable import holm

    groups: dict[str, list[Finished]] = {}
    for item in items:
        groups.setdefault(group_of(item.node), []).append(item)
    gone = {group_named(name) for name in absent or ()}
    tested = [[_test(test, groups, gone) for test in claim.tests] for claim in asked]
    adjusted = iter(holm([test.p for tests in tested for test in tests]))
    judged = []
    for claim, tests in zip(asked, tested, strict=True):
        own = tuple(replace(test, p_holm=next(adjusted)) for test in tests)
        judged.append(Judged(claim.id, claim.says, claim.source, _together(own), own, claim.untested))
    return judged


def _together(tests: Sequence[Tested]) -> str:
    found = {test.verdict for test in tests} - {UNTESTABLE}
    if not found:
        return UNTESTABLE
    return CONTRADICTED if CONTRADICTED in found else SUPPORTED if found == {SUPPORTED} else OPEN


def _test(test: Comparison, groups: Mapping[str, Sequence[Finished]], gone: set[str]) -> Tested:
    terms = [(sign, name, _matching(name, groups)) for sign, name in test.terms]
    for _, name, members in terms:
        if not members:
            return Tested(str(test), UNTESTABLE, why=_missing(name, groups, gone))
    shared = set.intersection(*({*members} for _, _, members in terms))
    if not shared:
        return Tested(str(test), UNTESTABLE, why="no seed in common")
    values = {key: sum(sign * _number(name, members[key]) for sign, name, members in terms) for key in shared}
    drawn = _drawn(values, test.over)
    prints = " ".join(dict.fromkeys(members[key].short for key in sorted(shared) for _, _, members in terms))
    over = "seeds" if test.over == "seeds" else "what * stands for"
    if len(drawn) < 2:
        mean = statistics.fmean(values.values())
        why = f"one of {over}: {mean:.4g}, without an interval"
        return Tested(str(test), UNTESTABLE, Estimate(mean, None, None), len(drawn), over, why=why, fingerprints=prints)
    pairs = [(terms[0][2][key], terms[1][2][key]) for key in sorted(shared)] if _is_difference(test) else []
    return _judged(test, drawn, over, _over_patches(test, pairs), prints)


def _matching(name: str, groups: Mapping[str, Sequence[Finished]]) -> dict[Key, Finished]:
    """Nodes that have the metric, of the groups whose name fits, by seed and by what `*` stands for."""
    group, _, metric = name.rpartition(".")
    pattern = re.compile("(.+)".join(re.escape(part) for part in group.split("*")))
    found: dict[Key, Finished] = {}
    for known, members in groups.items():
        match = pattern.fullmatch(known)
        for item in members if match else ():
            value = item.metrics.get(metric)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[item.node.variables.get("seed", ""), " ".join(match.groups() if match else ())] = item
    return found


def _number(name: str, item: Finished) -> float:
    return float(item.metrics[name.rpartition(".")[2]])


def _missing(name: str, groups: Mapping[str, Sequence[Finished]], gone: set[str]) -> str:
    group, _, metric = name.rpartition(".")
    if group in groups:
        return f"{group} has no '{metric}'{suggest(metric, groups[group][0].metrics)}"
    return f"{group}: {WeightsAbsent.row}" if group in gone else f"{group} was not run"


def _drawn(values: Numbers, over: str) -> list[float]:
    """One value a seed (the mean over what `*` stands for, of those that all seeds have), or the other way round."""
    own, other = (0, 1) if over == "seeds" else (1, 0)
    by: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        by.setdefault(key[own], {})[key[other]] = value
    common = set.intersection(*({*held} for held in by.values()))
    return [statistics.fmean(by[name][part] for part in sorted(common)) for name in sorted(by)] if common else []


def _is_difference(test: Comparison) -> bool:
    """Of two groups by one metric, which is what patches can be paired for."""
    terms = test.terms
    same = len({name.rpartition(".")[2] for _, name in terms}) == 1
    return len(terms) == 2 and terms[1][0] < 0 and same and "*" not in test.of


def _over_patches(test: Comparison, pairs: Sequence[tuple[Finished, Finished]]) -> float | None:
    """Standard error over test patches, where the runs left predictions of the same ones."""
    from ssl_sat.evaluation.comparison import over_patches
    from ssl_sat.graph.paired import as_run

    if not pairs:
        return None
    metric = test.terms[0][1].rpartition(".")[2]
    found = over_patches([(as_run(a), as_run(b)) for a, b in pairs], metric)
    return None if found is None else found[1]


def _judged(test: Comparison, values: Sequence[float], over: str, error: float | None, prints: str) -> Tested:
    from ssl_sat.evaluation.detectable import detectable_over_patches, detectable_over_seeds, mean_of, paired_p

    found = mean_of(values)
    half, seen = found.half_width or 0.0, detectable_over_seeds(found.sd or 0.0, found.n)
    if error is not None:
        half, seen = max(half, 1.959963984540054 * error), max(seen, detectable_over_patches(error))
    low, high = found.mean - half, found.mean + half
    above, below = (-math.inf if test.above is None else test.above), (math.inf if test.below is None else test.below)
    inside, outside = low > above and high < below, high < above or low > below
    verdict = SUPPORTED if inside else CONTRADICTED if outside else OPEN
    bounds = [bound for bound in (test.above, test.below) if bound is not None]
    p = paired_p([value - bounds[0] for value in values]) if len(bounds) == 1 else None
    why = f"less than {seen:.2g} beyond the bound could not have been seen" if verdict == OPEN and seen else ""
    return Tested(str(test), verdict, Estimate(found.mean, low, high), found.n, over, p, None, seen, why, prints)


def write_judged(folder: Path, judged: Sequence[Judged]) -> None:
    """Leave them beside the report as claims.json; none, where there are none."""
    path = folder / FILE
    if judged:
        write_json(path, [asdict(claim) for claim in judged], sort=False)
    else:
        path.unlink(missing_ok=True)


def read_judged(folder: Path) -> list[Judged]:
    """Those beside a report."""
    path = folder / FILE
    return [_read(claim) for claim in json.loads(path.read_text())] if path.is_file() else []


def _read(claim: dict[str, Any]) -> Judged:
    tests = [Tested(**{**t, "found": None if t["found"] is None else Estimate(*t["found"])}) for t in claim["tests"]]
    return Judged(**{**claim, "tests": tuple(tests)})


def flat(judged: Sequence[Judged]) -> dict[str, Any]:
    """What metrics.json holds of them: `claims.<claim>.verdict`, `claims.<claim>.0.mean`, ..."""
    return dict(_flat(judged))


def _flat(judged: Sequence[Judged]) -> Iterator[tuple[str, Any]]:
    for claim in judged:
        yield f"claims.{claim.id}.verdict", claim.said
        for at, test in enumerate(claim.tests):
            mean, low, high = test.found or (None, None, None)
            own: dict[str, Any] = {"mean": mean, "low": low, "high": high, "n": test.n, "p_holm": test.p_holm}
            own |= {"detectable": test.detectable, "verdict": test.verdict}
            yield from ((f"claims.{claim.id}.{at}.{name}", value) for name, value in own.items())
