import json
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_sat import config
from ssl_sat.artifact import MissingInput
from ssl_sat.graph.expand import expand
from ssl_sat.graph.plan import read_plan
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.spec import read_graph
from ssl_sat.graph.stages import stage_named
from ssl_sat.spec import ConfigError
from ssl_sat.stage import Lookup, plan

ROOT = Path(__file__).resolve().parents[2]


def nodes_of(lab, text):
    return {node.id: node for node in make_plan(lab.write(text)).nodes}


def test_foreach_is_inherited_along_needs(lab):
    nodes = make_plan(lab.graph).by_id
    assert list(nodes) == ["source", "middle-seed0", "middle-seed1", "end-seed0", "end-seed1"]
    assert nodes["middle-seed1"].config["seed"] == 1
    assert nodes["end-seed1"].needs == {"right": "middle-seed1"}
    assert nodes["end-seed1"].config["right"] == nodes["middle-seed1"].artifact
    assert nodes["end-seed1"].config["seed"] == 0  # an inherited variable is no override
    assert len({node.fingerprint for node in nodes.values()}) == 5


def test_a_synthetic_source_marks_all_that_hangs_on_it(lab):
    assert all(node.synthetic for node in make_plan(lab.graph).nodes)
    lab.write(lab.graph.read_text().replace("value=7", "value=8"))
    assert not any(node.synthetic for node in make_plan(lab.graph).nodes)


def test_a_changed_override_changes_only_what_hangs_on_it(lab):
    before = make_plan(lab.graph).by_id
    lab.write(lab.graph.read_text().replace("[value=3]", "[value=3, rate=0.2]"))
    after = make_plan(lab.graph).by_id
    assert [i for i in before if before[i].fingerprint != after[i].fingerprint] == ["end-seed0", "end-seed1"]
    lab.write(lab.graph.read_text().replace("value=7", "value=8"))
    assert all(before[i].fingerprint != node.fingerprint for i, node in make_plan(lab.graph).by_id.items())


def test_placeholders_variants_and_a_single_instance(lab):
    nodes = nodes_of(
        lab,
        """
        name: more
        question: "?"
        nodes:
          source: {stage: fake_source, foreach: {rate: [1e-3, 0.5]}}
          sum:
            stage: fake_sum
            overrides: ["value={base}"]
            foreach:
              base: [3, 4]
              start:
                alone: {overrides: [seed=9]}
                fed: {needs: {left: source-rate0.5}}
          last: {stage: fake_sum, needs: {right: sum-base4-fed}}
        """,
    )
    sums = ["sum-base3-alone", "sum-base3-fed", "sum-base4-alone", "sum-base4-fed"]
    assert list(nodes) == ["source-rate1e-3", "source-rate0.5", *sums, "last"]
    assert nodes["source-rate1e-3"].config["rate"] == 1e-3
    assert (nodes["sum-base3-alone"].config["value"], nodes["sum-base3-alone"].config["seed"]) == (3, 9)
    assert nodes["sum-base3-alone"].inputs == {}
    assert nodes["sum-base4-fed"].inputs == {"left": nodes["source-rate0.5"].fingerprint}
    assert nodes["last"].inputs == {"right": nodes["sum-base4-fed"].fingerprint}


def test_only_keeps_what_is_needed(lab):
    assert list(make_plan(lab.graph, only=["end-seed1"]).by_id) == ["source", "middle-seed1", "end-seed1"]
    assert list(make_plan(lab.graph, only=["middle"]).by_id) == ["source", "middle-seed0", "middle-seed1"]
    with pytest.raises(ConfigError, match=r"only=midle: no such node.*did you mean 'middle'"):
        make_plan(lab.graph, only=["midle"])


def test_a_written_plan_is_read_back(lab):
    made = make_plan(lab.graph)
    assert read_plan(made.write()) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("stage: fake_source", "stage: fake_sorce"),
            "node 'source': no stage 'fake_sorce'.*did you mean 'fake_source'",
        ),
        (("left: source", "left: sourc"), "nodes.middle: needs 'sourc', which is no node.*did you mean 'source'"),
        (("left: source", "leftt: source"), "node 'middle-seed0': .*unknown key 'leftt'; did you mean 'left'"),
        (("[value=7]", "[valu=7]"), "node 'source': .*unknown key 'valu'; did you mean 'value'"),
        (("[value=7]", "[value=many]"), "node 'source': value: .*integer"),
        (("[value=7]", "['value=1,2']"), "is a sweep; a graph repeats a node by foreach"),
        (("[value=7]", "[outputs=elsewhere]"), "the experiment sets the outputs folder"),
        (("[value=7]", "['value={size}']"), "no variable for {size}"),
        (("[value=7]", "value=7"), "a list of key=value is needed"),
        (("[value=7]", "[value: 7]"), "write key=value as one text"),
        (("foreach:", "for_each:"), "nodes.middle: unknown key 'for_each'; did you mean 'foreach'"),
        (("question:", "qestion:"), "unknown key 'qestion'; did you mean 'question'"),
        (("[0, 1]", "[]"), "'seed' has no values"),
        (("right: middle", "right: middle-seed2"), "needs 'middle-seed2', which is no node; there are: middle-seed0"),
        (("  middle:", "  source:"), "the key 'source' is there twice"),
        (("overrides: [value=7]", "needs: {left: end}"), "in a circle: source -> end -> middle -> source"),
        (("[value=3]", "[value=3]\n    foreach: {seed: [5]}"), "there is no 'middle' with seed=5"),
        (("needs: {left: source}", "overrides: [right=latest]"), "takes the latest fake_sum"),
    ],
)
def test_mistakes_are_named_with_their_place(lab, change, message):
    assert change[0] in lab.graph.read_text()
    with pytest.raises(ConfigError, match=message):
        make_plan(lab.write(lab.graph.read_text().replace(*change, 1)))


def test_an_artifact_outside_the_graph_must_exist(lab):
    with pytest.raises(MissingInput, match="node 'middle-seed0': no artifact at nowhere"):
        make_plan(lab.write(lab.graph.read_text().replace("needs: {left: source}", "overrides: [left=nowhere]")))
    with pytest.raises(MissingInput, match="no graph at"):
        make_plan(lab.folder / "other.yaml")


def test_a_plan_of_hundreds_of_nodes(lab):
    seeds = list(range(150))
    made = make_plan(lab.write(lab.graph.read_text().replace("[0, 1]", str(seeds))))
    assert len(made.nodes) == 301
    assert len({node.fingerprint for node in made.nodes}) == 301


def demo_instances():
    return expand(read_graph(ROOT / "experiments" / "demo" / "graph.yaml"))


def test_merged_scalars_equal_a_full_composition(tmp_path, monkeypatch):
    """The planner's short cut gives what the command line gives, for every node of the demo."""
    monkeypatch.chdir(tmp_path)
    made = make_plan(ROOT / "experiments" / "demo" / "graph.yaml")
    planned = {}
    for node, instance in zip(made.nodes, demo_instances(), strict=True):
        stage = stage_named(node.stage)
        paths = [f"{key}={made.by_id[need].artifact}" for key, need in instance.needs.items()]
        spec = config.compose(node.stage, stage.spec, [*instance.overrides, *paths])
        ref = plan(stage, spec, Lookup(Path("outputs"), planned))
        planned[ref.path] = ref
        assert (str(ref.path), ref.fingerprint) == (node.artifact, node.fingerprint)
        assert json.loads(json.dumps(ref.config)) == json.loads(json.dumps(node.config))
    assert [node.synthetic for node in made.nodes] == [True] * len(made.nodes)


def test_no_yaml_interpolates():
    """Scalars are merged after composition: an interpolation of one would have kept its old value."""
    shipped = [path for path in (ROOT / "conf").rglob("*.yaml") if "hydra" not in path.parts]
    assert [path.name for path in shipped if "${" in path.read_text()] == []


def test_a_stage_without_its_pack_is_refused(lab):
    graph = "name: x\nquestion: '?'\nnodes:\n  only:\n    stage: pretrain\n    overrides: [data=scenes]\n"
    with pytest.raises(ConfigError, match="node 'only': pretrain needs its data packed by a node"):
        make_plan(lab.write(graph))


def test_planning_imports_no_heavy_library(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ssl_sat.graph.planner import make_plan;"
        f"make_plan(Path({str(ROOT / 'experiments/demo/graph.yaml')!r}));"
        "print([m for m in ('torch', 'timm', 'rasterio', 'matplotlib', 'snakemake', 'sklearn') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert found.stdout.decode().strip() == "[]", found.stderr.decode()
