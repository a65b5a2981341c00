import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats

from ssl_sat.artifact import hash_files, locked, write_json
from ssl_sat.graph.collect import collect, group_of, over_seeds
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.report import write_report
from ssl_sat.graph.stages import stage_named
from ssl_sat.stage import execute


def make(plan, ids=None):
    """Run nodes here, without Snakemake."""
    for node in plan.nodes:
        if ids is None or node.id in ids:
            stage = stage_named(node.stage)
            execute(stage, stage.spec.parse(node.config))


@pytest.fixture
def done(lab):
    lab.write(lab.graph.read_text().replace("[0, 1]", "[0, 1, 2]"))
    make(make_plan(lab.graph))
    return make_plan(lab.graph)


def test_numbers_over_seeds(done):
    values = [0.5 + 0.1 * seed for seed in (0, 1, 2)]
    spreads = {(s.group, s.metric): s for s in over_seeds(collect(done))}
    accuracy = spreads["middle", "test_accuracy"]
    assert (accuracy.n, accuracy.low, accuracy.high) == (3, min(values), max(values))
    assert accuracy.mean == pytest.approx(statistics.fmean(values), abs=1e-15)
    assert accuracy.sd == pytest.approx(0.1, abs=1e-12)
    low, high = scipy.stats.t.interval(0.95, 2, statistics.fmean(values), scipy.stats.sem(values))
    assert accuracy.half_width == pytest.approx((high - low) / 2, rel=1e-9)
    assert spreads["end", "total"].mean == 3 + 1 + 7
    assert ("source", "total") not in spreads  # it has no seed
    assert ("middle", "name") not in spreads
    assert {group_of(node) for node in done.nodes} == {"source", "middle", "end"}


def test_a_single_seed_has_no_deviation(lab):
    plan = make_plan(lab.write(lab.graph.read_text().replace("[0, 1]", "[1]")))
    make(plan)
    spread = next(s for s in over_seeds(collect(make_plan(lab.graph))) if s.metric == "test_accuracy")
    assert (spread.n, spread.sd, spread.half_width, spread.mean) == (1, None, None, 0.6)


def test_two_runs_give_the_same_metrics_file(lab):
    files = []
    for outputs in ("one", "two"):
        make(make_plan(lab.graph, outputs))
        page = write_report(make_plan(lab.graph, outputs))
        files.append((page.parent / "metrics.json").read_bytes())
    assert files[0] == files[1]
    metrics = json.loads(files[0])
    assert list(metrics) == sorted(metrics)
    assert metrics["middle-seed1.test_accuracy"] == 0.6
    assert metrics["middle.test_accuracy.mean"] == pytest.approx(0.55)
    assert metrics["end-seed0.total"] == 11
    assert metrics["source.fingerprint"] == make_plan(lab.graph).by_id["source"].fingerprint


def test_the_page_names_every_fingerprint_and_is_self_contained(done):
    html = write_report(done).read_text()
    assert all(node.fingerprint[:8] in html for node in done.nodes)
    assert "What do the numbers add up to?" in html and "DEMO DATA" in html
    assert "http://" not in html and "https://" not in html
    assert all(f'id="fp-{node.fingerprint[:8]}"' in html for node in done.nodes)  # what the links lead to


def test_real_data_is_not_stamped(lab):
    plan = make_plan(lab.write(lab.graph.read_text().replace("value=7", "value=8")))
    make(plan)
    assert "DEMO DATA" not in write_report(make_plan(lab.graph)).read_text()


def test_the_page_is_built_again_only_when_the_plan_has_moved_on(lab):
    plan = make_plan(lab.graph)
    make(plan, {"source"})
    page = write_report(make_plan(lab.graph))
    assert "Unfinished: 1 of 5 nodes" in page.read_text()
    before = page.stat().st_mtime_ns
    assert write_report(make_plan(lab.graph)).stat().st_mtime_ns == before
    make(plan)
    assert "Unfinished" not in write_report(make_plan(lab.graph)).read_text()


def test_the_command_reports_what_was_run_and_names_what_was_not(lab, capsys):
    from ssl_sat.report.__main__ import ReportSpec, run
    from ssl_sat.spec import MissingInput

    plan = make_plan(lab.graph)
    with pytest.raises(MissingInput, match="no experiment 'sums' was run in outputs"):
        run(ReportSpec(name="sums"))
    plan.write()
    make(plan, {"source", "middle-seed0"})
    run(ReportSpec(name="sums"))
    assert "report: outputs/reports/sums/report.html" in capsys.readouterr().out
    assert "Unfinished: 2 of 5 nodes" in (lab.folder / "outputs/reports/sums/report.html").read_text()
    with pytest.raises(MissingInput, match="did you mean 'sums'"):
        run(ReportSpec(name="sumz"))


def test_a_report_of_artifacts_made_by_hand_holds_what_went_into_them(lab):
    from ssl_sat.report.__main__ import ReportSpec, plan_for

    plan = make_plan(lab.graph)
    make(plan, {"source", "middle-seed0", "middle-seed1"})
    paths = tuple(node.artifact for node in plan.nodes if node.node == "middle")
    found = plan_for(ReportSpec(name="mine", artifacts=paths))
    assert [node.stage for node in found.nodes] == ["fake_source", "fake_sum", "fake_sum"]
    assert found.nodes[1].needs == {"left": found.nodes[0].id}
    assert [node.fingerprint for node in found.nodes] == [plan.nodes[n].fingerprint for n in range(3)]
    html = write_report(found).read_text()
    assert all(node.fingerprint[:8] in html for node in found.nodes)


def test_the_page_is_built_again_for_other_contents_under_the_same_fingerprint(done):
    page = write_report(done)
    node = done.by_id["end-seed1"]  # nothing hangs on it that would turn stale
    metrics = Path(node.artifact) / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "total": 107}))
    write_json(Path(node.artifact) / "files.json", hash_files(Path(node.artifact)))
    write_report(make_plan(Path("mine.yaml")))
    assert json.loads((page.parent / "metrics.json").read_text())["end-seed1.total"] == 107


def test_warnings_of_stale_nodes_and_the_stamp_come_and_go(done):
    page = write_report(done)
    plain = page.read_bytes()
    first, *others = done.nodes
    stale = replace(done, nodes=[replace(first, stale=["fake_numbers"]), *others])
    assert "Stale: the code of fake_numbers has changed" in write_report(stale).read_text()
    fed = replace(done, nodes=[first, replace(others[0], remade=["source"]), *others[1:]])
    assert "inputs that were made again since: middle-seed0 (source)." in write_report(fed).read_text()
    assert write_report(done).read_bytes() == plain
    written = page.stat().st_mtime_ns
    write_report(replace(done, demo=not done.demo))
    assert page.stat().st_mtime_ns != written


def test_two_commands_do_not_write_one_report_at_once(done, capsys):
    page = Path(done.outputs) / "reports" / done.name / "report.html"
    with ThreadPoolExecutor(1) as pool:
        with locked(done.folder / ".report.lock", "not free"):
            other = pool.submit(write_report, done)
            time.sleep(0.5)
            assert not page.parent.exists() and not other.done()
        assert other.result(timeout=60) == page and page.is_file()
    assert "another command writes the report of sums; waiting" in capsys.readouterr().out
