import json

import pytest

from ssl_sat.graph.expected import (
    ABSENT,
    MET,
    MISSED,
    NAMELESS,
    Expectation,
    check,
    check_report,
    missed,
    path_of,
    read_expected,
)
from ssl_sat.graph.planner import make_plan
from ssl_sat.spec import ConfigError

METRICS = {"a-seed0.acc": 0.80, "a-seed1.acc": 0.90, "b.acc": 0.70, "b.kind": "simclr", "b.flag": True, "nodes_done": 3}


def verdicts(**expected):
    parsed = {name: Expectation.parse(values) for name, values in expected.items()}
    return {finding.metric: finding.verdict for finding in check(parsed, METRICS, {"c", "c-seed0"})}


def test_values_bounds_patterns_and_differences():
    assert verdicts(**{"b.acc": {"value": 0.75, "tolerance": 0.05}}) == {"b.acc": MET}  # its ends belong to it
    assert verdicts(**{"b.acc": {"value": 0.76, "tolerance": 0.05}}) == {"b.acc": MISSED}
    assert verdicts(nodes_done={"value": 3, "tolerance": 0}) == {"nodes_done": MET}
    assert verdicts(**{"b.kind": {"value": "simclr"}}) == {"b.kind": MET}
    assert verdicts(**{"b.kind": {"min": 0}, "b.flag": {"max": 2}}) == {"b.kind": MISSED, "b.flag": MISSED}
    assert verdicts(**{"a-seed*.acc": {"min": 0.85}}) == {"a-seed0.acc": MISSED, "a-seed1.acc": MET}
    assert verdicts(**{"a-seed1.acc - b.acc": {"min": 0.1, "max": 0.3}}) == {"a-seed1.acc - b.acc": MET}
    assert verdicts(**{"b.acc - a-seed1.acc": {"min": 0.0}}) == {"b.acc - a-seed1.acc": MISSED}
    assert verdicts(**{"c.acc": {"min": 0}, "b.acc - c.acc": {"min": 0}}) == {"c.acc": ABSENT, "b.acc - c.acc": ABSENT}
    assert verdicts(**{"c-seed*.acc": {"min": 0}, "a-seed1.acc - c*.acc": {"min": 0}}) == {
        "c-seed*.acc": ABSENT, "a-seed1.acc - c*.acc": ABSENT,
    }  # fmt: skip


def test_a_name_that_nothing_has_is_a_deviation():
    own = {"b.ac": {"min": 0}, "x*": {"min": 0}, "b.acc - b.ac": {"min": 0}, "a-seed*.ac": {"min": 0}}
    assert verdicts(**own) == dict.fromkeys(own, NAMELESS)
    parsed = {name: Expectation.parse(values) for name, values in own.items()}
    assert len(missed(check(parsed, METRICS))) == 4
    assert [f.verdict for f in check(parsed, METRICS, {"b"})] == [ABSENT, NAMELESS, ABSENT, NAMELESS]


def test_a_star_in_a_difference_stands_for_the_same_text():
    metrics = {f"t-{e}-{s}.acc": v for (e, s), v in {("cnn", "new"): 0.5, ("cnn", "old"): 0.4, ("vit", "new"): 0.7,
               ("vit", "old"): 0.9, ("swin", "new"): 0.1}.items()}  # fmt: skip
    found = check({"t-*-new.acc - t-*-old.acc": Expectation(min=0.0)}, metrics)
    assert [(f.metric, round(f.found, 9), f.verdict) for f in found] == [
        ("t-cnn-new.acc - t-cnn-old.acc", 0.1, MET),
        ("t-vit-new.acc - t-vit-old.acc", -0.2, MISSED),
    ]
    found = check({"t-*-new.acc - t-cnn-old.acc": Expectation(min=0.0)}, metrics)
    assert {f.metric.partition(" ")[0]: f.verdict for f in found} == {
        "t-cnn-new.acc": MET, "t-vit-new.acc": MET, "t-swin-new.acc": MISSED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give value and tolerance, or min, max"),
        ({"value": 1.0}, "a number needs a tolerance"),
        ({"value": "x", "tolerance": 1}, "a text or bounds take none"),
        ({"value": 1.0, "tolerance": 0.1, "min": 0}, "either a value or bounds"),
        ({"minn": 1}, "unknown key 'minn'; did you mean 'min'"),
    ],
)
def test_an_expectation_that_says_nothing_or_too_much(values, message):
    with pytest.raises(ConfigError, match=message):
        Expectation.parse(values)


def test_the_file_beside_the_graph_is_checked_against_the_report(lab):
    plan = make_plan(lab.graph)
    assert path_of(plan).name == "mine.expected.json" and check_report(plan) == []
    path_of(plan).write_text(
        json.dumps({"full": {"nodes_done": {"value": 5, "tolerance": 0}, "middle-seed0.x": {"min": 1}}})
    )
    assert check_report(plan) == []  # there is no report yet
    folder = lab.folder / "outputs" / "reports" / "sums"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"nodes_done": 4}))
    findings = check_report(plan)
    assert [(f.metric, f.expected, f.found, f.verdict) for f in findings] == [
        ("nodes_done", "5 ± 0", 4, MISSED),
        ("middle-seed0.x", "at least 1", None, ABSENT),
    ]
    assert missed(findings) == findings[:1]
    assert [row["verdict"] for row in json.loads((folder / "expected.json").read_text())] == [MISSED, ABSENT]


def test_a_file_that_cannot_be_read_is_named(lab):
    plan = make_plan(lab.graph)
    for text, message in (
        ("{", "is no JSON"),
        ('{"full": 3}', "is needed, as in"),
        ('{"full": {"x": {"mn": 1}}}', "mine.expected.json: full.x: unknown key 'mn'"),
        ('{"ful": {}}', r"sums has no size 'ful' \(there are: full\); did you mean 'full'"),
        ('{"full": {"midle.acc": {"min": 1}}}', "no nodes are called 'midle'; did you mean 'middle'"),
        ('{"full": {"middle*.acc - ends.acc": {"min": 1}}}', "no nodes are called 'ends'; did you mean 'end'"),
        ('{"full": {"*.acc - middle-*-*.acc": {"min": 1}}}', "give both names as many"),
    ):
        path_of(plan).write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_expected(plan)


def test_a_misspelt_metric_is_status_1_with_expected_error(lab):
    path = path_of(make_plan(lab.graph))
    path.write_text(json.dumps({"full": {"middle.test_acuracy.mean": {"min": 0}}}))
    code, said = lab.run("expected=error")
    assert code == 1 and "no such metric" in said
    path.write_text(json.dumps({"full": {"middle.test_accuracy.mean": {"value": 0.55, "tolerance": 1e-9}}}))
    code, said = lab.run("expected=error")
    assert code == 0, said
    assert "1 of 1 as expected" in said
