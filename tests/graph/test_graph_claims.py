"""Claims of others: how they are read, and verdicts against values worked out by hand."""

import json
import math

import pytest

from ssl_sat.graph import claims
from ssl_sat.graph.claim_tables import claim_tables, lines, sentence
from ssl_sat.graph.claims import Asked, Comparison
from ssl_sat.graph.collect import Finished
from ssl_sat.graph.plan import Node
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.report import write_report
from ssl_sat.graph.verdicts import CONTRADICTED, OPEN, SUPPORTED, UNTESTABLE, flat, judge, read_judged
from ssl_sat.spec import ConfigError

T2 = 4.302652729911275  # the .975 quantile of Student's t with two degrees of freedom
FIRST, SECOND = (0.90, 0.92, 0.94), (0.80, 0.84, 0.85)  # differences .10, .08, .09: mean .09, sd .01


def item(group, seed, **metrics):
    ident = f"{group}-seed{seed}" if seed is not None else group
    variables = {} if seed is None else {"seed": str(seed)}
    node = Node(ident, group, "own", variables, [], {}, f"nowhere/{ident}", f"{ident:_<64}", {}, False, "done", {})
    return Finished(node, metrics, {})


def both(first=FIRST, second=SECOND):
    return [
        item(group, seed, acc=value)
        for group, values in (("a", first), ("b", second))
        for seed, value in enumerate(values)
    ]


def verdict(items, of, absent=None, **bounds):
    claim = Asked("c", "It is so.", "p. 1", (Comparison(of=of, **bounds),), "")
    (judged,) = judge([claim], items, absent)
    return judged.tests[0]


def test_a_paired_interval_worked_out_by_hand():
    found = verdict(both(), "a.acc - b.acc")
    half = T2 * 0.01 / math.sqrt(3)
    assert found.found == pytest.approx((0.09, 0.09 - half, 0.09 + half), rel=1e-9)
    assert (found.verdict, found.n, found.over) == (SUPPORTED, 3, "seeds")
    t = 0.09 / (0.01 / math.sqrt(3))
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)  # closed form for two degrees of freedom


def test_four_verdicts():
    assert verdict(both(), "b.acc - a.acc").verdict == CONTRADICTED
    assert verdict(both(), "a.acc - b.acc", above=0.1).verdict == OPEN  # .09 ± .025
    assert verdict(both(), "a.acc - b.acc", above=0.2).verdict == CONTRADICTED
    assert verdict(both(), "a.acc - b.acc", below=0.2).verdict == SUPPORTED
    assert verdict(both(), "a.acc - b.acc", above=0.05, below=0.12).verdict == SUPPORTED
    assert verdict(both(), "a.acc - b.acc", above=0.085, below=0.12).verdict == OPEN
    assert verdict(both(), "a.acc", above=0.5, below=0.7).verdict == CONTRADICTED
    assert verdict(both(), "a.acc - c.acc").verdict == UNTESTABLE


def test_what_could_have_been_shown_stands_beside_what_was_not():
    """Noncentral t, inverted: three pairs of sd .01 show .0187 or more with probability .80 (Cohen 1988)."""
    from ssl_sat.evaluation.detectable import detectable_over_seeds

    found = verdict(both(), "a.acc - b.acc", above=0.1)
    assert found.detectable == pytest.approx(detectable_over_seeds(0.01, 3), rel=1e-6)
    assert found.why == f"less than {found.detectable:.2g} beyond the bound could not have been seen"


def test_several_terms_are_one_number_a_seed():
    items = both() + [item("c", seed, acc=0.01) for seed in range(3)] + [item("d", seed, acc=0.02) for seed in range(3)]
    assert verdict(items, "a.acc - b.acc - c.acc + d.acc").found.value == pytest.approx(0.10)


def test_only_seeds_that_all_have_are_compared():
    items = [one for one in both() if one.node.id != "b-seed1"]
    found = verdict(items, "a.acc - b.acc")
    assert found.n == 2 and found.found.value == pytest.approx((0.10 + 0.09) / 2)
    assert found.fingerprints.split() == [f"{name:_<8}"[:8] for name in ("a-seed0", "b-seed0", "a-seed2", "b-seed2")]


def test_a_star_is_averaged_in_each_seed_or_is_what_is_drawn():
    values = {("forest", 0): 0.1, ("forest", 1): 0.3, ("river", 0): 0.5, ("river", 1): 0.9}
    items = [item(f"near-{name}", seed, auroc=value) for (name, seed), value in values.items()]
    over_seeds = verdict(items, "near-*.auroc")
    assert over_seeds.n == 2 and over_seeds.found.value == pytest.approx(0.45)
    half = 12.706204736432095 * math.sqrt(2) * 0.15 / math.sqrt(2)  # means .3 and .6 of the seeds: sd .15 sqrt 2
    assert over_seeds.found.high - over_seeds.found.value == pytest.approx(half, rel=1e-9)
    over_classes = verdict(items, "near-*.auroc", over="*")
    assert (over_classes.n, over_classes.over) == (2, "what * stands for")
    half = 12.706204736432095 * math.sqrt(2) * 0.25 / math.sqrt(2)  # means .2 and .7 of the classes
    assert over_classes.found.high - over_classes.found.value == pytest.approx(half, rel=1e-9)
    with_hole = [one for one in items if one.node.id != "near-river-seed1"]
    assert verdict(with_hole, "near-*.auroc").found.value == pytest.approx(0.2)  # forests alone, in both seeds


def test_why_a_test_cannot_be_made():
    items = both()
    assert verdict(items, "a.acc - c.acc").why == "c was not run"
    assert verdict(items, "a.acc - c.acc", absent={"c-seed0": "no file"}).why == "c: not run: weights absent"
    assert verdict(items, "a.ac - b.acc").why == "a has no 'ac'; did you mean 'acc'?"
    one = verdict([item("a", 0, acc=0.9), item("b", 0, acc=0.8)], "a.acc - b.acc")
    assert (one.verdict, one.found.low, one.why) == (UNTESTABLE, None, "one of seeds: 0.1, without an interval")
    apart = [item("a", 0, acc=0.9), item("b", 1, acc=0.8)]
    assert verdict(apart, "a.acc - b.acc").why == "no seed in common"


def test_a_claim_of_several_tests():
    def overall(*tests):
        claim = Asked("c", "It is so.", "", tuple(Comparison(of=of, **bounds) for of, bounds in tests), "")
        return judge([claim], both())[0].verdict

    yes, no, perhaps, gone = (
        ("a.acc - b.acc", {}), ("b.acc - a.acc", {}), ("a.acc - b.acc", {"above": 0.1}), ("x.acc", {}),
    )  # fmt: skip
    assert overall(yes, gone) == SUPPORTED
    assert overall(yes, perhaps) == OPEN
    assert overall(yes, perhaps, no) == CONTRADICTED
    assert overall(gone) == UNTESTABLE
    (untested,) = judge([Asked("c", "It takes an hour.", "", (), "no such machine here")], both())
    assert (untested.verdict, untested.words) == (UNTESTABLE, "no such machine here")


def test_a_verdict_says_of_how_many_tests_it_is():
    def judged(*names):
        (one,) = judge([Asked("c", "It is so.", "", tuple(Comparison(of=of) for of in names), "")], both())
        return one

    partly = judged("a.acc - b.acc", "a.acc - x.acc", "y.acc", "z.acc")
    assert (partly.verdict, partly.said) == (SUPPORTED, "supported (1 of 4 tested)")
    assert flat([partly])["claims.c.verdict"] == "supported (1 of 4 tested)"
    assert lines([partly])[0] == "  supported (1 of 4 tested): It is so."
    assert claim_tables([partly], {})[0].rows[0]["verdict"] == "supported (1 of 4 tested)"
    assert sentence(partly).startswith("Supported (1 of 4 tested): It is so.")
    assert judged("b.acc - a.acc", "x.acc").said == "contradicted (1 of 2 tested)"
    assert judged("a.acc - b.acc", "a.acc").said == SUPPORTED and judged("x.acc", "y.acc").said == UNTESTABLE


def test_p_is_adjusted_for_all_tests_of_the_experiment():
    asked = [Asked(name, name, "", (Comparison(of="a.acc - b.acc"),), "") for name in ("one", "two")]
    judged = judge(asked, both())
    p = judged[0].tests[0].p
    assert [claim.tests[0].p_holm for claim in judged] == pytest.approx([2 * p, 2 * p])


def test_no_spread_shows_nothing_at_the_bound_and_anything_beyond():
    same = both((0.9, 0.9, 0.9), (0.9, 0.9, 0.9))
    assert verdict(same, "a.acc - b.acc").verdict == OPEN
    assert verdict(both((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), "a.acc - b.acc").verdict == SUPPORTED


FILE = """
names: {small: {first: middle}, full: {first: middle}}
claims:
  more: {says: Seeds are above one half., source: nobody, tests: ["{first}.test_accuracy - end.test_accuracy"]}
  plateau: {says: They lie between., tests: [{of: middle.test_accuracy, above: 0.1, below: 0.9}]}
  hours: {says: It takes an hour., untested: no such machine here}
  elsewhere: {says: Only there., sizes: [full], tests: [end.test_accuracy], untested: the other size tests it}
"""


def test_the_file_beside_the_graph(lab):
    plan = make_plan(lab.graph)
    assert claims.path_of(plan).name == "mine.claims.yaml" and claims.read_claims(plan) == []
    claims.path_of(plan).write_text(FILE)
    asked = claims.read_claims(plan)
    assert [len(claim.tests) for claim in asked] == [1, 1, 0, 1]
    assert str(asked[0].tests[0]) == "middle.test_accuracy - end.test_accuracy > 0"
    assert str(asked[1].tests[0]) == "middle.test_accuracy > 0.1 and < 0.9"
    claims.refuse_unknown(asked, plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("says: It takes an hour., untested: no such machine here", "says: x"), "claims.hours: give tests, or say in"),
        (("{first}", "{frist}"), r"claims.more: names.full has no \{frist\} \(there are: first\)"),
        (("above: 0.1, below: 0.9", "above: 0.9, below: 0.1"), "nothing is above 0.9 and below 0.1"),
        (("above: 0.1", "abov: 0.1"), "unknown key 'abov'; did you mean 'above'"),
        (("of: middle.test_accuracy", "of: middle"), "'middle' is no <group>.<metric>"),
        (("below: 0.9", "over: '*'"), r"over: '\*' needs a \* in every name"),
        (("claims:", "claim:"), "`claims` must map"),
        (
            ("end.test_accuracy]", "ends.test_accuracy]"),
            "claims.elsewhere: no nodes are called 'ends'; did you mean 'end'",
        ),
    ],
)
def test_mistakes_in_it_are_named(lab, change, message):
    plan = make_plan(lab.graph)
    assert change[0] in FILE
    claims.path_of(plan).write_text(FILE.replace(*change, 1))
    with pytest.raises(ConfigError, match=message):
        claims.refuse_unknown(claims.read_claims(plan), plan)


def test_a_run_prints_and_reports_them(lab):
    (lab.folder / "mine.claims.yaml").write_text(FILE)
    code, said = lab.run()
    assert code == 0, said
    assert "claims: 1 supported, 2 not shown, 1 not testable" in said
    assert "not testable: It takes an hour.\n      no such machine here" in said
    folder = lab.folder / "outputs" / "reports" / "sums"
    metrics = json.loads((folder / "metrics.json").read_text())
    judged = read_judged(folder)
    assert {f"claims.{claim.id}.verdict": claim.verdict for claim in judged}.items() <= metrics.items()
    assert metrics["claims.plateau.0.mean"] == pytest.approx(0.55) and metrics["claims.plateau.0.n"] == 2
    assert "They lie between." in (folder / "tables" / "claims.md").read_text()
    assert "Claims: " in (folder / "report.html").read_text()
    assert (folder / "tables" / "claims.tex").is_file() and (folder / "tables" / "claims.csv").is_file()
    (lab.folder / "mine.claims.yaml").unlink()
    page = write_report(make_plan(lab.graph, str(lab.folder / "outputs")))
    assert not (page.parent / "claims.json").exists() and "Claims: " not in page.read_text()


def test_lines_and_tables_say_the_same():
    judged = judge([Asked("c", "It is so.", "p. 1", (Comparison(of="a.acc - b.acc"),), "")], both())
    (table,) = claim_tables(judged, {})
    assert table.rows[0]["verdict"] == SUPPORTED and table.rows[0]["over"] == "3 seeds"
    first, second = lines(judged)
    assert first == "  supported: It is so."
    assert second == "      supported, a.acc - b.acc > 0: +0.0900 [+0.0652, +0.1148] over 3 seeds"
    assert flat(judged)["claims.c.0.verdict"] == SUPPORTED
    (gone,) = claim_tables([], {"a-seed0": "no file", "a-seed1": "no file"})
    assert gone.rows == [{"runs": "a", "outcome": "not run: weights absent", "nodes": 2, "why": "no file"}]
