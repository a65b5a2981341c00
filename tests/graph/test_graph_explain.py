import json
import shutil
from pathlib import Path

import pytest

from ssl_sat.graph.explain import _differences, explain, remember
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.stages import stage_named
from ssl_sat.spec import ConfigError
from ssl_sat.stage import execute, partial_of


@pytest.fixture
def made(lab):
    """The graph of sums, all of it made and remembered."""
    for node in make_plan(lab.graph).nodes:
        stage = stage_named(node.stage)
        execute(stage, stage.spec.parse(node.config))
    plan = make_plan(lab.graph)
    plan.folder.mkdir(parents=True)
    remember(plan)
    return lab


def changed(lab, old, new):
    lab.write(lab.graph.read_text().replace(old, new))
    return make_plan(lab.graph)


def test_differences_name_the_very_key_within_lists_and_no_order_of_keys():
    old = {"phases": {"steps": [{"train": "head", "lr": 0.1}, {"train": "all", "lr": 0.01}]}, "bands": ["B02", "B03"]}
    new = {"phases": {"steps": [{"lr": 0.1, "train": "head"}, {"lr": 0.05, "train": "all"}]}, "bands": ["B02"]}
    assert list(_differences(old, new)) == [("phases.steps.1.lr", 0.01, 0.05), ("bands", ["B02", "B03"], ["B02"])]


def test_the_changed_key_with_both_values(made):
    plan = changed(made, "[value=3]", "[value=3, rate=0.2]")
    lines = explain(plan, "end-seed1")
    assert lines[:2] == ["end-seed1: must run, because", "  config rate: 0.1 -> 0.2"]
    assert lines[2].startswith("  compared with fake_sum/v3-s0-") and lines[2].endswith("stood for it in the last run")
    assert len(lines) == 3
    assert "done, outputs/fake_sum" in explain(plan, "middle-seed0")[0]
    assert len([line for line in explain(plan, "end") if "must run" in line]) == 2  # both instances


def test_a_changed_input_is_followed_to_its_cause(made):
    plan = changed(made, "value=7", "value=8")
    text = "\n".join(explain(plan, "end-seed0"))
    assert "  input right: " in text and "    middle-seed0: input left: " in text
    assert "source: config value: 7 -> 8" in text


def test_an_artifact_that_is_gone_begun_or_failed(made):
    node = make_plan(made.graph).by_id["end-seed1"]
    shutil.rmtree(node.artifact)
    plan = make_plan(made.graph)
    assert explain(plan, "end-seed1") == [
        "end-seed1: must run, because",
        f"  its artifact is gone: {node.artifact} was there after an earlier run",
    ]
    partial_of(Path(node.artifact)).mkdir()
    state = plan.folder / "state" / "end-seed1.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"fingerprint": node.fingerprint, "state": "failed", "error": "out of luck"}))
    lines = explain(make_plan(made.graph), "end-seed1")
    assert lines[1] == "  the last attempt failed: out of luck"
    assert lines[2].startswith("  it was begun and not finished; it goes on from outputs/fake_sum/")


def test_a_node_that_never_was_is_compared_with_the_nearest(made):
    text = made.graph.read_text()
    made.write(text + "  more: {stage: fake_sum, overrides: [value=3, strict=true], needs: {right: middle-seed1}}\n")
    lines = explain(make_plan(made.graph), "more")
    assert lines[1] == "  config strict: false -> true"
    assert lines[2].endswith("the nearest of its stage; it was never made itself")


def test_a_new_version_and_changed_files_have_their_names(made):
    plan = make_plan(made.graph)
    node = plan.by_id["source"]
    record = Path(node.artifact) / "artifact.json"
    values = json.loads(record.read_text())
    values |= {"fingerprint": "0" * 64, "versions": {"fake_source": 0}}
    values["science"]["source"] = {"names_sha256": "f" * 64}
    record.write_text(json.dumps(values))
    remembered = plan.folder / "made.json"
    remembered.write_text(remembered.read_text().replace(node.fingerprint, "0" * 64))
    lines = explain(make_plan(made.graph), "source")
    assert lines[1] == '  files source: {"names_sha256": "' + "f" * 64 + '"} -> (absent)'
    assert lines[2] == "  version of fake_source: 0 -> 1"
    for key in ("science", "versions"):  # an artifact of before they were recorded tells its config alone
        del values[key]
    record.write_text(json.dumps(values))
    assert explain(make_plan(made.graph), "source")[1].startswith("  raw files or a version changed; which of them")


def test_the_first_time_and_an_unknown_node(lab):
    plan = make_plan(lab.graph)
    assert explain(plan, "source")[1] == "  nothing of the stage fake_source was made before"
    with pytest.raises(ConfigError, match=r"explain=sorce: no such node.*did you mean 'source'"):
        explain(plan, "sorce")
