"""A node whose weights are absent is named and passed over, with what needs it; the others are planned."""

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
