import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ssl_sat.artifact import Artifact

TIMEOUT = 240  # a busy machine is no failure
ROOT = Path(__file__).resolve().parents[2]
ALL = ["SourceSpec-7-0", "SumSpec-1-0", "SumSpec-1-1", "SumSpec-3-0", "SumSpec-3-0"]
SMALL = """
name: sums
question: How far does it come?
nodes:
  source: {stage: fake_source}
  sum: {stage: fake_sum, needs: {left: source}, foreach: {value: [3, 4]}}
  end: {stage: fake_sum, overrides: [value=5], needs: {right: sum-value3}}
"""


def test_a_graph_runs_once_and_then_says_so(lab):
    status, output = lab.run("dry=true")
    assert status == 0, output
    assert lab.runs == [] and not (lab.folder / "outputs").exists()

    status, output = lab.run()
    assert status == 0, output
    assert sorted(lab.runs) == ALL and lab.runs[0] == ALL[0]
    assert "5 nodes: 5 made now" in output and "SumSpec-1-1 makes 8" in output
    assert output.splitlines()[-1] == "report: outputs/reports/sums/report.html"
    assert not re.search("snakemake|rule |job", output, re.IGNORECASE), output  # its words are not the user's
    threads = {line.split()[1] for line in (lab.folder / "runs.txt").read_text().splitlines()}
    assert threads == {"own"}  # Snakemake's thread counts would change the numbers
    log = (lab.folder / "outputs/.graph/sums/logs/middle-seed1.log").read_text()
    assert "SumSpec-1-1 makes 8" in log

    status, output = lab.run()
    assert status == 0 and sorted(lab.runs) == ALL
    assert "everything is already done (5 nodes)" in output
    assert output.splitlines()[-1] == "report: outputs/reports/sums/report.html"

    shutil.rmtree(Artifact.open(next(lab.folder.glob("outputs/fake_sum/v1-s1-*"))).path)  # its marker is left behind
    status, output = lab.run()
    assert status == 0 and sorted(lab.runs) == sorted([*ALL, "SumSpec-1-1"]), output


def test_when_all_is_done_nothing_heavy_is_imported(lab):
    assert lab.run("only=source")[0] == 0
    code = (
        "import sys; sys.argv = ['x', 'graph=./mine.yaml', 'only=source'];"
        "from ssl_sat.experiment import main; main();"
        "print([m for m in ('torch', 'snakemake', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(lab.package), str(ROOT)])}
    found = subprocess.run([sys.executable, "-c", code], cwd=lab.folder, env=env, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]", found.stdout + found.stderr
    assert "everything is already done" in found.stdout


def test_a_failure_stops_only_what_hangs_on_it(lab):
    lab.write(SMALL + "  other: {stage: fake_source, overrides: [value=2]}\n")
    (lab.folder / "fail-SumSpec-3-0").touch()
    (lab.folder / "crash-SumSpec-4-0").touch()
    status, output = lab.run()
    assert status == 1
    assert sorted(lab.runs) == ["SourceSpec-1-0", "SourceSpec-2-0", "SumSpec-3-0", "SumSpec-4-0"]
    assert "5 nodes: 2 made now, 2 failed, 1 not run" in output
    assert "failed: sum-value3: SumSpec-3-0 was told to fail" in output
    assert "| error: SumSpec-3-0 was told to fail" in output
    assert "failed: sum-value4: ZeroDivisionError: one by nought" in output
    assert "not run: end needs sum-value3" in output
    assert "Unfinished: 2 of 5 nodes" in (lab.folder / "outputs/reports/sums/report.html").read_text()

    (lab.folder / "fail-SumSpec-3-0").unlink()
    (lab.folder / "crash-SumSpec-4-0").unlink()
    status, output = lab.run()
    assert status == 0 and "5 nodes: 2 done before, 3 made now" in output
    assert [lab.runs.count(name) for name in ("SourceSpec-1-0", "SumSpec-3-0", "SumSpec-4-0", "SumSpec-5-0")] == [
        1,
        2,
        2,
        1,
    ]


def node_process(lab, node):
    state = lab.folder / f"outputs/.graph/sums/state/{node}.json"
    return psutil.Process(json.loads(state.read_text())["pid"])


def test_a_killed_node_is_a_failure_and_the_same_command_finishes(lab):
    lab.write(SMALL)
    hold = lab.folder / "hold-SumSpec-3-0"
    hold.touch()
    head = lab.start("retries=0")
    lab.wait_for("SumSpec-3-0")
    node_process(lab, "sum-value3").kill()
    output, _ = head.communicate(timeout=TIMEOUT)
    assert head.returncode == 1 and "failed: sum-value3: ended by SIGKILL (killed, or out of memory)" in output
    hold.unlink()
    status, output = lab.run()
    assert status == 0, output
    assert sorted(lab.runs) == ["SourceSpec-1-0", *["SumSpec-3-0"] * 2, "SumSpec-4-0", "SumSpec-5-0"]


def test_a_killed_command_is_waited_for_and_nothing_runs_twice(lab):
    lab.write(SMALL)
    hold = lab.folder / "hold-SumSpec-3-0"
    hold.touch()
    head = lab.start()
    lab.wait_for("SumSpec-3-0")
    head.kill()
    head.wait()  # its running node lives on
    second = lab.start()
    for line in second.stdout:
        if "another run of this experiment is under way" in line:
            break
    hold.unlink()
    output, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 0, output
    assert sorted(lab.runs) == ["SourceSpec-1-0", "SumSpec-3-0", "SumSpec-4-0", "SumSpec-5-0"]


def test_everything_killed_at_once(lab):
    lab.write(SMALL)
    hold = lab.folder / "hold-SumSpec-3-0"
    hold.touch()
    head = lab.start()
    lab.wait_for("SumSpec-3-0")
    for process in [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]:
        process.kill()
    head.wait()
    hold.unlink()
    status, output = lab.run()
    assert status == 0, output
    assert output.count("partial") == 1  # the plan shows the node that was in the making
    assert sorted(lab.runs) == ["SourceSpec-1-0", *["SumSpec-3-0"] * 2, "SumSpec-4-0", "SumSpec-5-0"]


def test_an_interrupt_ends_everything_cleanly(lab):
    lab.write(SMALL)
    (lab.folder / "hold-SumSpec-3-0").touch()
    head = lab.start()
    lab.wait_for("SumSpec-3-0")
    node = node_process(lab, "sum-value3")
    head.send_signal(signal.SIGINT)
    output, _ = head.communicate(timeout=TIMEOUT)
    assert head.returncode == 130
    assert output.splitlines()[-1] == "stopped; the same command goes on from here"
    assert "Traceback" not in output
    end = time.monotonic() + TIMEOUT
    while node.is_running() and node.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_mistake_ends_with_one_message(lab):
    status, output = lab.run("only=midle")
    assert (status, output) == (2, output) and output.startswith("error: only=midle") and "Traceback" not in output
    status, output = lab.run("job=2")
    assert status == 2 and "unknown key 'job'; did you mean 'jobs'?" in output
    status, output = lab.run("name=demo")
    assert status == 2 and "give either name=" in output


def test_jobs_run_side_by_side_and_share_the_cores(lab):
    for name in ("SumSpec-1-0", "SumSpec-1-1"):
        (lab.folder / f"hold-{name}").touch()
    head = lab.start("jobs=2", "only=middle")
    lab.wait_for("SumSpec-1-0")
    lab.wait_for("SumSpec-1-1")
    for path in lab.folder.glob("hold-*"):
        path.unlink()
    output, _ = head.communicate(timeout=TIMEOUT)
    assert head.returncode == 0, output
    threads = [line.split()[1] for line in (lab.folder / "runs.txt").read_text().splitlines()]
    assert len(threads) == 3 and "own" not in threads  # the command's share, not each node's own choice


def test_changed_code_is_named_and_rerun_on_request(own_lab):
    own_lab.write("name: sums\nquestion: '?'\nnodes:\n  source: {stage: fake_source, overrides: [stale=warn]}\n")
    assert own_lab.run()[0] == 0
    numbers = own_lab.package / "fake_numbers.py"
    numbers.write_text('def add(values):\n    """Sum, said otherwise."""\n    # and why\n    return sum(values)\n')
    status, output = own_lab.run()
    assert status == 0 and "everything is already done (1 nodes)" in output and "stale" not in output
    numbers.write_text("def add(values):\n    return sum(values) + 1\n")
    status, output = own_lab.run()
    assert status == 0 and "stale: the code of fake_numbers has changed since it made source" in output
    assert own_lab.runs == ["SourceSpec-1-0"]
    own_lab.write(own_lab.graph.read_text().replace("stale=warn", "stale=rerun"))
    status, output = own_lab.run()
    assert status == 0 and own_lab.runs == ["SourceSpec-1-0"] * 2, output


CHAIN = """
name: sums
question: Does a rerun reach what hangs on it?
stages:
  fake_source: {overrides: [stale=rerun]}
  fake_sum: {overrides: [stale=STALE]}
nodes:
  source: {stage: fake_source, overrides: [value=2]}
  middle: {stage: fake_sum, needs: {left: source}}
  end: {stage: fake_sum, overrides: [value=3], needs: {right: middle}}
"""


def total(lab, node):
    return json.loads((lab.folder / "outputs/reports/sums/metrics.json").read_text()).get(f"{node}.total")


def edit_the_source_alone(lab):
    """What a change in the code of pretraining is to fine-tuning: the sums add up as before."""
    stages = lab.package / "fake_stages.py"
    assert stages.read_text().count('CODE = ("fake_numbers",)') == 1
    text = stages.read_text().replace("    total = fake_numbers", "    import fake_bonus\n    total = fake_numbers")
    text = text.replace(
        "item in inputs.values())])\n", "item in inputs.values())])\n    total += fake_bonus.of(spec)\n"
    )
    stages.write_text(
        text.replace('f"v{s.value}-s{s.seed}", code=CODE,', 'f"v{s.value}-s{s.seed}", code=("fake_bonus",),')
    )
    return lab.package / "fake_bonus.py"


def test_a_rerun_reaches_what_hangs_on_it_and_the_report(own_lab):
    bonus = edit_the_source_alone(own_lab)
    bonus.write_text("def of(spec):\n    return 0\n")
    own_lab.write(CHAIN.replace("STALE", "warn"))
    status, output = own_lab.run()
    assert status == 0, output
    assert [total(own_lab, node) for node in ("source", "middle", "end")] == [2, 3, 6]

    bonus.write_text("def of(spec):\n    return 100 if type(spec).__name__ == 'SourceSpec' else 0\n")
    status, output = own_lab.run()
    assert status == 0 and own_lab.runs == ["SourceSpec-2-0", "SumSpec-1-0", "SumSpec-3-0", "SourceSpec-2-0"], output
    assert "stale: source was made again, or will be, since it went into middle" in output
    assert [total(own_lab, node) for node in ("source", "middle", "end")] == [102, 3, 6]  # the rerun's number
    page = (own_lab.folder / "outputs/reports/sums/report.html").read_text()
    assert "Stale: made of inputs that were made again since: middle (source)." in page
    status, output = own_lab.run()
    assert status == 0 and len(own_lab.runs) == 4, output
    assert "stale: source was made again, or will be, since it went into middle" in output

    own_lab.write(CHAIN.replace("STALE", "error"))
    status, output = own_lab.run()
    assert status == 2 and "was made before source was made again; choose stale=rerun or stale=warn" in output

    own_lab.write(CHAIN.replace("STALE", "rerun"))
    status, output = own_lab.run()
    assert status == 0 and own_lab.runs[4:] == ["SumSpec-1-0", "SumSpec-3-0"], output
    assert [total(own_lab, node) for node in ("source", "middle", "end")] == [102, 103, 106]
    assert "Stale:" not in (own_lab.folder / "outputs/reports/sums/report.html").read_text()
    status, output = own_lab.run()
    assert status == 0 and "everything is already done (3 nodes)" in output and "stale" not in output

    bonus.write_text("def of(spec):\n    return 200 if type(spec).__name__ == 'SourceSpec' else 0\n")
    status, output = own_lab.run()  # all three in one command
    assert status == 0 and own_lab.runs[6:] == ["SourceSpec-2-0", "SumSpec-1-0", "SumSpec-3-0"], output
    assert [total(own_lab, node) for node in ("source", "middle", "end")] == [202, 203, 206]
    shutil.rmtree(Artifact.open(next(own_lab.folder.glob("outputs/fake_source/v2-s0-????????"))).path)
    status, output = own_lab.run()  # made anew with what it held before: nothing else needs to be
    assert status == 0 and own_lab.runs[9:] == ["SourceSpec-2-0"], output


def test_a_rerun_that_fails_is_no_success(own_lab):
    own_lab.write("name: sums\nquestion: '?'\nnodes:\n  source: {stage: fake_source, overrides: [stale=rerun]}\n")
    assert own_lab.run()[0] == 0
    (own_lab.package / "fake_numbers.py").write_text("def add(values):\n    return sum(values) + 1\n")
    (own_lab.folder / "fail-SourceSpec-1-0").touch()
    status, output = own_lab.run()
    assert status == 1 and "1 nodes: 1 failed" in output, output
    assert total(own_lab, "source") is None  # the old number is not that of this code
    (own_lab.folder / "fail-SourceSpec-1-0").unlink()
    assert own_lab.run()[0] == 0 and total(own_lab, "source") == 2


def test_only_some_nodes_are_reported_with_the_rest(lab):
    assert lab.run()[0] == 0
    report = lab.folder / "outputs/reports/sums"
    before = json.loads((report / "metrics.json").read_text())
    assert before["nodes_done"] == 5
    status, output = lab.run("only=middle-seed0")
    assert status == 0 and json.loads((report / "metrics.json").read_text()) == before, output
    gone = [next(lab.folder.glob(f"outputs/fake_sum/v{n}-????????")) for n in ("1-s0", "1-s1")]
    for path in gone:
        shutil.rmtree(path)
    status, output = lab.run("only=middle-seed0")
    assert status == 0 and "2 nodes: 1 done before, 1 made now" in output
    now = json.loads((report / "metrics.json").read_text())
    assert (now["nodes"], now["nodes_done"], now["end-seed1.total"]) == (5, 4, before["end-seed1.total"])
    assert "Unfinished: 4 of 5 nodes" in (report / "report.html").read_text()
    plan = json.loads((lab.folder / "outputs/.graph/sums/plan.json").read_text())  # of which `ssl_sat.report` reports
    assert {node["id"]: node["state"] for node in plan["nodes"]}["middle-seed1"] == "to do" and len(plan["nodes"]) == 5
