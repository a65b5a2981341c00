import json
import os
import platform
import time
import xml.etree.ElementTree as ElementTree

from ssl_sat.graph import dag
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.stages import stage_named
from ssl_sat.graph.status import counted, standings
from ssl_sat.stage import execute


def noted(plan, node, **facts):
    path = plan.folder / "state" / f"{node}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"fingerprint": plan.by_id[node].fingerprint, "started": time.time() - 65, "host": platform.node()}
    path.write_text(json.dumps({**values, **facts}))


def half_done(lab):
    """source done, middle-seed0 running, middle-seed1 in a queue, end-seed0 failed, end-seed1 to do."""
    source = make_plan(lab.graph).by_id["source"]
    execute(stage_named("fake_source"), stage_named("fake_source").spec.parse(source.config))
    plan = make_plan(lab.graph)
    noted(plan, "middle-seed0", state="running", pid=os.getpid(), attempt=2)
    noted(plan, "middle-seed1", state="queued", job="17", reason="Priority")
    noted(plan, "end-seed0", state="failed", error="no <luck> & more")
    return plan


def test_how_the_nodes_stand(lab):
    plan = half_done(lab)
    found = {item.node.id: item for item in standings(plan)}
    assert [item.state for item in found.values()] == ["done", "running", "queued", "failed", "to do"]
    assert found["middle-seed0"].words == "for 1:05, attempt 2"
    assert found["middle-seed1"].words == "job 17, Priority"
    assert counted(list(found.values())) == "1 done, 1 running, 1 queued, 1 failed, 1 to do"
    noted(plan, "middle-seed0", state="running", pid=2**22 + 1)  # above the largest pid there can be
    noted(plan, "middle-seed1", state="running", pid=1, job="17", host="node7")
    noted(plan, "end-seed0", state="failed", error="of another plan", fingerprint="0" * 64)
    found = {item.node.id: item for item in standings(plan)}
    assert (found["middle-seed0"].state, found["middle-seed0"].words) == ("to do", "its process is gone")
    assert found["middle-seed1"].words == "for 1:05, job 17, on node7"
    assert found["end-seed0"].state == "to do"


def test_the_picture_holds_every_node_needs_and_state(lab):
    plan = half_done(lab)
    svg = ElementTree.fromstring(dag.as_svg(plan))
    space = "{http://www.w3.org/2000/svg}"
    states = {group.get("data-node"): group.get("data-state") for group in svg.iter(f"{space}g")}
    assert states == {item.node.id: item.state for item in standings(plan)}
    assert len(list(svg.iter(f"{space}path"))) == sum(len(node.needs) for node in plan.nodes)
    drawn = dag.picture(plan)
    by_name = {box.name: box for box in drawn.boxes}
    for box in drawn.boxes:  # needed ones stand on the left, nothing overlaps, all is inside
        assert all(by_name[need].x + by_name[need].width < box.x for need in box.needs)
        assert box.x >= 0 and box.x + box.width <= drawn.width and box.y >= 0 and box.y + 40 <= drawn.height
    assert len({(box.x, box.y) for box in drawn.boxes}) == len(drawn.boxes)


def test_lines_do_not_cross_where_they_need_not(lab):
    plan = make_plan(lab.write(lab.graph.read_text().replace("[0, 1]", "[0, 1, 2, 3, 4, 5]")))
    by_name = {box.name: box for box in dag.picture(plan).boxes}
    orders = [
        [name for name in sorted(by_name, key=lambda n: by_name[n].y) if name.startswith(k)] for k in ("mid", "end")
    ]
    assert [name[-5:] for name in orders[0]] == [name[-5:] for name in orders[1]]


def test_many_nodes_are_drawn_in_groups_and_png_and_pdf_are_written(lab):
    plan = make_plan(lab.write(lab.graph.read_text().replace("[0, 1]", str(list(range(40))))))
    boxes = {box.name: box for box in dag.picture(plan).boxes}
    assert list(boxes) == ["source", "middle", "end"] and boxes["end"].needs == ["middle"]
    assert boxes["middle"].words == "fake_sum, 40 to do"
    lab.write(lab.graph.read_text().replace("foreach: {seed: ", "foreach: {rate: [1, 2], seed: "))
    names = [box.name for box in dag.picture(make_plan(lab.graph)).boxes]  # 161 nodes, without their seeds five
    assert names == ["source", "middle-rate1", "middle-rate2", "end-rate1", "end-rate2"]
    svg, png, pdf = dag.write(plan, lab.folder / "pictures")
    assert svg.read_text().startswith("<svg") and png.read_bytes().startswith(b"\x89PNG")
    before = pdf.read_bytes()
    assert before.startswith(b"%PDF-") and b"CreationDate" not in before
    dag.write(plan, lab.folder / "pictures")
    assert pdf.read_bytes() == before
