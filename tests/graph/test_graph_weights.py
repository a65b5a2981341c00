"""A node whose weights are absent is named and passed over, with what needs it; the others are planned and run.

A file is looked for by the plan, weights of a hub by the node itself.
"""

import json
from pathlib import Path

import pytest

from ssl_sat.graph.page import build_page
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.shown import show

GRAPH = """
name: starts
question: Do weights of others help?
nodes:
  data: {stage: pack, overrides: [data=scenes, data.patches_per_class=4]}
  theirs: {stage: pretrain, needs: {pack: data}, overrides: [data=scenes, encoder=cnn, init=away/moco.pth, epochs=1]}
  ours: {stage: pretrain, needs: {pack: data}, overrides: [data=scenes, encoder=cnn, epochs=1]}
  after: {stage: finetune, needs: {pack: data, init: theirs}, overrides: [data=scenes]}
"""


def test_the_row_says_that_it_was_not_run(outputs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("graph.yaml").write_text(GRAPH)
    plan = make_plan(Path("graph.yaml"), str(outputs))
    assert [node.id for node in plan.nodes] == ["data", "ours"] and list(plan.absent) == ["theirs", "after"]
    show(plan)
    shown = capsys.readouterr().out
    assert "theirs: not run: weights absent (node 'theirs': weights absent: no file away/moco.pth" in shown
    assert "after: not run: weights absent (needs theirs)" in shown
    build_page(plan, []).write(tmp_path / "page.html")
    assert "not run: weights absent" in (tmp_path / "page.html").read_text()


def test_a_node_that_finds_its_weights_absent_is_no_failure(lab) -> None:
    (lab.folder / "absent-SumSpec-1-1").touch()  # middle-seed1, which end-seed1 needs
    code, said = lab.run()
    assert code == 0, said
    assert "5 nodes: 3 made now, 2 weights absent" in said and "failed" not in said
    assert "middle: not run: weights absent (weights absent: SumSpec-1-1 has no hub)" in said
    assert "end: not run: weights absent (needs middle-seed1)" in said
    assert sorted(lab.runs) == ["SourceSpec-7-0", "SumSpec-1-0", "SumSpec-1-1", "SumSpec-3-0"]  # it was tried once
    folder = lab.folder / "outputs" / "reports" / "sums"
    page = (folder / "report.html").read_text()
    assert "middle, end: not run: weights absent. Why is told" in page and "Unfinished" not in page
    assert "| middle | not run: weights absent | 1 |" in (folder / "tables" / "not_run.md").read_text()
    assert json.loads((folder / "metrics.json").read_text())["nodes_done"] == 3


def test_it_is_tried_again_and_made_once_they_are_there(lab) -> None:
    absent = lab.folder / "absent-SumSpec-1-1"
    absent.touch()
    assert lab.run()[0] == 0
    code, said = lab.run("status")
    assert code == 0 and "middle-seed1: not run: weights absent" in said and "3 done" in said
    code, said = lab.run("dag")
    assert code == 0 and "2 absent" in (lab.folder / "outputs" / "reports" / "sums" / "dag.svg").read_text()
    absent.unlink()
    code, said = lab.run()
    assert code == 0 and "5 nodes: 3 done before, 2 made now" in said, said
    assert not (lab.folder / "outputs" / "reports" / "sums" / "tables" / "not_run.md").exists()


def test_a_failure_beside_it_is_one(lab) -> None:
    (lab.folder / "absent-SumSpec-1-1").touch()
    (lab.folder / "fail-SumSpec-1-0").touch()
    code, said = lab.run()
    assert code == 1, said
    assert "failed: middle-seed0" in said and "not run: end-seed0 needs middle-seed0" in said
    assert "end: not run: weights absent (needs middle-seed1)" in said
