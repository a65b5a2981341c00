import pytest

from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.resources import Resources, resources_of
from ssl_sat.graph.sizes import replaced
from ssl_sat.spec import ConfigError

GRAPH = """
name: sized
question: How much?
stages:
  fake_sum: {overrides: [value=2, rate=0.5], resources: {memory_gb: 3, hours: 5}}
nodes:
  source: {stage: fake_source, overrides: [value=7]}
  sum:
    stage: fake_sum
    needs: {left: source}
    foreach:
      start:
        low: {overrides: [rate=0.1]}
        high: {overrides: [rate=0.9]}
      seed: [0, 1, 2]
    resources: {cpus: 2}
  own: {stage: fake_sum, overrides: [value=9]}
  last: {stage: fake_sum, needs: {right: sum}}
sizes:
  small:
    question: How little?
    foreach: {seed: [0]}
    stages: {fake_sum: {overrides: [value=4], resources: {hours: 1}}}
    nodes:
      source: {overrides: [value=8, rate=0.3]}
      sum: {foreach: {start: [high]}}
      own: null
  fewer:
    nodes:
      sum: {foreach: {start: null, seed: [5, 6]}, overrides: [strict=true]}
"""


def nodes_of(lab, size=None, text=GRAPH):
    return make_plan(lab.write(text), size=size).by_id


def test_the_nodes_as_written_are_full(lab):
    plan = make_plan(lab.write(GRAPH), size="full")
    assert (plan.name, plan.size, plan.question) == ("sized", "full", "How much?")
    assert plan.nodes == make_plan(lab.graph).nodes
    assert len(plan.nodes) == 1 + 6 + 1 + 6
    values = {name: plan.by_id[name].config["value"] for name in ("source", "sum-low-seed0", "own")}
    assert values == {"source": 7, "sum-low-seed0": 2, "own": 9}  # a node's own override wins over its stage's
    assert plan.by_id["sum-high-seed2"].config["rate"] == 0.9  # and its variant's
    assert plan.by_id["last-low-seed1"].config["rate"] == 0.5


def test_a_size_changes_what_it_names(lab):
    plan = make_plan(lab.write(GRAPH), size="small")
    assert (plan.name, plan.size, plan.question) == ("sized-small", "small", "How little?")
    assert list(plan.by_id) == ["source", "sum-high-seed0", "last-high-seed0"]
    nodes = plan.by_id
    assert (nodes["source"].config["value"], nodes["source"].config["rate"]) == (8, 0.3)
    assert (nodes["sum-high-seed0"].config["value"], nodes["sum-high-seed0"].config["rate"]) == (4, 0.9)
    assert nodes["sum-high-seed0"].resources["hours"] == 1 and nodes["sum-high-seed0"].resources["cpus"] == 2
    fewer = nodes_of(lab, "fewer")
    assert [name for name in fewer if name.startswith("sum")] == ["sum-seed5", "sum-seed6"]
    assert fewer["sum-seed5"].config["strict"] is True and fewer["source"].config["value"] == 7


def test_what_two_sizes_share_is_one_artifact(lab):
    full, fewer = nodes_of(lab), nodes_of(lab, "fewer")
    assert full["source"].fingerprint == fewer["source"].fingerprint
    assert full["source"].artifact == fewer["source"].artifact


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("own: null", "ow: null"), "sizes.small.nodes: no 'ow' in this graph.*did you mean 'own'"),
        (("foreach: {seed: [0]}", "foreach: {sed: [0]}"), "sizes.small.foreach: no 'sed'.*did you mean 'seed'"),
        (("start: [high]", "start: [hi]"), "chooses start=hi, which is none of its variants.*low, high"),
        (("start: [high]", "start: []"), "leaves 'start' without values"),
        (("stages: {fake_sum: {overrides: [value=4]", "stages: {fake_sun: {overrides: [value=4]"), "no 'fake_sun'"),
        (("own: null", "source: null"), "needs 'source', which is no node"),
        (("question: How little?", "quest: How little?"), "sizes.small: unknown key 'quest'; did you mean 'question'"),
        (("[value=8, rate=0.3]", "[value: 8]"), "sizes.small.nodes.source.overrides: write key=value as one text"),
        (("foreach: {start: [high]}", "for_each: {}"), "nodes.sum: unknown key 'for_each'; did you mean 'foreach'"),
        (
            ("resources: {cpus: 2}", "resources: {cpu: 2}"),
            "nodes.sum.resources: unknown key 'cpu'; did you mean 'cpus'",
        ),
    ],
)
def test_mistakes_in_sizes_are_named(lab, change, message):
    assert change[0] in GRAPH
    text = GRAPH.replace(*change, 1)
    if change[1] == "source: null":
        text = text.replace("      source: {overrides: [value=8, rate=0.3]}\n", "")
    with pytest.raises(ConfigError, match=message):
        nodes_of(lab, "small", text)


def test_a_size_that_is_not_there(lab):
    with pytest.raises(ConfigError, match="size=smal: sized has the sizes full, small, fewer; did you mean 'small'"):
        nodes_of(lab, "smal")


def test_overrides_are_replaced_by_key():
    assert replaced(["a=1", "b.c=2", "+d=3"], ["d=4", "a=5"]) == ("b.c=2", "d=4", "a=5")


def test_whose_word_on_resources_weighs_most():
    node, stage = Resources(gpus=4), Resources(gpus=2, hours=9)
    command = {"default": Resources(hours=3, partition="all"), "pretrain": Resources(cpus=64)}
    asked = resources_of("pretrain", command, [node.over(stage)])
    assert asked == {"gpus": 4, "nodes": 1, "cpus": 64, "memory_gb": 32, "hours": 9, "partition": "all"}
    assert resources_of("pretrain", {**command, "pretrain": Resources(gpus=1)}, [node])["gpus"] == 1
    assert resources_of("pack", command)["gpus"] == 0  # what the package knows comes before a default


def test_resources_are_no_science(lab):
    plain = make_plan(lab.write(GRAPH))
    asked = make_plan(lab.graph, resources={"fake_sum": Resources(gpus=1, hours=1)})
    assert [node.fingerprint for node in plain.nodes] == [node.fingerprint for node in asked.nodes]
    assert asked.by_id["own"].resources["hours"] == 1
