"""Attempts, GPUs by file locks (fake ones, on the CPU), and work that two commands share."""

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ssl_sat.graph import slots
from ssl_sat.graph.attempt import Attempts
from ssl_sat.graph.endings import Ended, read_note
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.settings import LaunchSpec, visible_gpus
from ssl_sat.spec import ConfigError
from ssl_sat.stage import partial_of

TIMEOUT = 240
ENDINGS = """
name: endings
question: What is tried again?
nodes:
  killed: {stage: fake_source, overrides: [value=1]}
  stale: {stage: fake_source, overrides: [value=2]}
  stopped: {stage: fake_source, overrides: [value=3]}
  crashed: {stage: fake_source, overrides: [value=4]}
  mistaken: {stage: fake_source, overrides: [value=5]}
"""
PAIR = """
name: pair
question: Who makes the first?
nodes:
  source: {stage: fake_source}
  sum: {stage: fake_sum, overrides: [value=3], needs: {left: source}}
"""
GPUS = """
name: gpus
question: Who has which?
nodes:
  one: {stage: fake_source, foreach: {value: [1, 2, 3]}}
  none: {stage: fake_source, overrides: [value=4], resources: {gpus: 0}}
  two: {stage: fake_train, overrides: [value=5], resources: {gpus: 2}}
"""


def test_what_passes_is_tried_again_and_mistakes_are_not(lab):
    lab.write(ENDINGS)
    for name in ("once-SIGKILL-SourceSpec-1-0", "once-io-SourceSpec-2-0", "once-stop-SourceSpec-3-0"):
        (lab.folder / name).touch()
    for name in ("once-SIGSEGV-SourceSpec-4-0", "fail-SourceSpec-5-0"):
        (lab.folder / name).touch()
    status, output = lab.run("pause_s=0", "retries=1")
    assert status == 1, output
    assert [lab.runs.count(f"SourceSpec-{value}-0") for value in (1, 2, 3, 4, 5)] == [2, 2, 2, 1, 1]
    assert "killed: ended by SIGKILL (killed, or out of memory); attempt 2 of 2" in output
    assert "stale: OSError: [Errno 116] Stale file handle; attempt 2 of 2" in output
    assert "5 nodes: 3 made now, 2 failed" in output
    assert "failed: crashed: ended by SIGSEGV" in output and "failed: mistaken: SourceSpec-5-0 was told" in output


class Scripted(Attempts):
    """Attempts whose ends are given; `saves` says before which of them a checkpoint is written."""

    clock = itertools.count(1)

    def __init__(self, plan, retries, ends, saves=()):
        path = plan.write().resolve()
        LaunchSpec(retries=retries, pause_s=0.0).write(plan.folder)
        super().__init__(path, "source")
        self.ends, self.saves, self.numbers = list(ends), saves, []

    def _once(self, number):
        self.numbers.append(number)
        at = len(self.numbers)
        if at in self.saves:
            checkpoint = partial_of(self.path) / "checkpoints" / f"{at:09d}.ckpt"
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.touch()
            os.utime(checkpoint, (next(self.clock),) * 2)
        return self.ends[at - 1]


def test_a_time_limit_costs_no_attempt_when_something_was_saved(lab):
    plan = make_plan(lab.graph)
    limit, killed = Ended(1, "TIMEOUT", True, limited=True), Ended(-9, "killed", True)
    saved = Scripted(plan, 0, [limit] * 4 + [Ended(0)], saves=(1, 2, 3, 4))
    assert saved.until_ended() == 0 and saved.numbers == [1] * 5
    assert saved.marker.read_text() == saved.node.fingerprint
    stuck = Scripted(plan, 2, [limit] * 5)
    assert stuck.until_ended() == 1 and stuck.numbers == [1, 2, 3]
    assert read_note(plan.folder, "source")["error"] == "TIMEOUT"
    mixed = Scripted(plan, 1, [killed, limit, killed], saves=(1, 2))  # a kill costs one, saved or not
    assert mixed.until_ended() == 1 and mixed.numbers == [1, 2, 2]
    assert Scripted(plan, 5, [Ended(2, "a mistake")]).until_ended() == 2


def test_each_node_has_gpus_of_its_own(lab):
    lab.write(GPUS)
    for value in (1, 2, 3, 5):
        (lab.folder / f"hold-SourceSpec-{value}-0").touch()
    head = lab.start("launch=gpus", "gpus=[3,5]", "pause_s=0")
    held = [f"SourceSpec-{value}-0" for value in (1, 2, 3)]
    end = time.monotonic() + TIMEOUT
    while sum(name in held for name in lab.runs) < 2:
        assert time.monotonic() < end and head.poll() is None
        time.sleep(0.05)
    beside = [line.split() for line in (lab.folder / "runs.txt").read_text().splitlines()]
    assert {gpus for name, _, gpus, _ in beside if name in held} == {"3", "5"}
    for name in held:
        (lab.folder / f"hold-{name}").unlink()
    while lab.runs.count("SourceSpec-5-0") < 2:  # a rank that came after the other had finished would find it done
        assert time.monotonic() < end and head.poll() is None
        time.sleep(0.05)
    (lab.folder / "hold-SourceSpec-5-0").unlink()
    output, _ = head.communicate(timeout=TIMEOUT)
    assert head.returncode == 0, output
    rows = [line.split() for line in (lab.folder / "runs.txt").read_text().splitlines()]
    seen = {(name, rank): gpus for name, _, gpus, rank in rows}
    assert all(seen[f"SourceSpec-{value}-0", "own"] in ("3", "5") for value in (1, 2, 3))
    assert seen["SourceSpec-4-0", "own"] == "none"
    assert seen["SourceSpec-5-0", "0"] == seen["SourceSpec-5-0", "1"] == "3,5"  # two processes by torchrun
    assert len(rows) == 6


def test_gpus_are_taken_all_at_once_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_SAT_SLOTS", str(tmp_path))
    stop, waited = threading.Event(), []
    with slots.taken(["0", "1", "2"], 2, stop, lambda: waited.append(1)) as first:
        assert first is not None and first.gpus == ("0", "1") and waited == []
        with slots.taken(["0", "1", "2"], 1, stop, lambda: waited.append(2)) as second:
            assert second is not None and second.gpus == ("2",)
        stop.set()
        with slots.taken(["0", "1", "2"], 2, stop, lambda: waited.append(3)) as third:
            assert third is None and waited == [3]
        with slots.taken(["2"], 1, stop, lambda: waited.append(4)) as fourth:  # the third kept nothing meanwhile
            assert fourth is not None
    with slots.taken(["0", "1", "2"], 3, stop, lambda: waited.append(5)) as all_of_them:
        assert all_of_them is not None and waited == [3]


def test_a_slot_outlives_its_command_while_the_node_computes(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_SAT_SLOTS", str(tmp_path))
    with slots.taken(["0"], 1, threading.Event(), lambda: None) as taken:
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=taken.files)
    with (tmp_path / "0.lock").open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate(b"\n", timeout=TIMEOUT)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_which_gpus_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert visible_gpus() == ("4", "6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()
    with pytest.raises(ConfigError, match=r"no GPU is visible here; .*gpus=\[0,1\]"):
        LaunchSpec(launch="gpus").resolved()
    spec = LaunchSpec(launch="gpus", gpus=[7, 8]).resolved()
    assert (spec.gpus, spec.jobs, LaunchSpec().resolved().jobs) == (("7", "8"), 1 + 1, 1)


@pytest.mark.parametrize(
    ("graph", "launched", "message"),
    [
        ("{stage: fake_source, resources: {gpus: 2}}", {}, "node 'a': fake_source runs in one process; gpus=2"),
        ("{stage: fake_train, resources: {gpus: 3}}", {"launch": "gpus", "gpus": ["0"]}, "asks for 3 GPUs.*are: 0"),
        ("{stage: fake_train, resources: {gpus: 0, nodes: 1}}", {"launch": "slurm"}, "no sbatch, squeue, scancel"),
    ],
)
def test_what_cannot_be_given_is_refused_before_it_starts(lab, graph, launched, message, monkeypatch):
    from ssl_sat.graph.launch import launch
    from ssl_sat.spec import UserError

    monkeypatch.setenv("PATH", "/nowhere")
    lab.write(f"name: x\nquestion: '?'\nnodes:\n  a: {graph}\n")
    with pytest.raises(UserError, match=message):
        launch(make_plan(lab.graph), None, LaunchSpec(**launched))


def test_two_experiments_at_the_same_time_share_a_node(lab):
    lab.write(PAIR)
    (lab.folder / "other.yaml").write_text(PAIR.replace("pair", "other").replace("value=3", "value=4"))
    hold = lab.folder / "hold-SourceSpec-1-0"
    hold.touch()
    heads = [lab.start(), lab.start(graph="other.yaml")]
    lab.wait_for("SourceSpec-1-0")
    waiting = ""
    for line in heads[1 if _holder(lab) == "pair" else 0].stdout:
        waiting += line
        if "another process is making it; waiting" in line:
            break
    hold.unlink()
    outputs = [head.communicate(timeout=TIMEOUT)[0] for head in heads]
    assert [head.returncode for head in heads] == [0, 0], outputs
    assert sorted(lab.runs) == ["SourceSpec-1-0", "SumSpec-3-0", "SumSpec-4-0"]


def _holder(lab):
    """The experiment whose node computes: the one whose log says so."""
    logs = {path.parents[1].name: path.read_text() for path in lab.folder.glob("outputs/.graph/*/logs/*.log")}
    return next(name for name, text in logs.items() if "fake_source: making" in text)


def test_the_head_and_all_but_the_node_killed(lab):
    """The node goes on alone; the same command waits for it and makes nothing twice."""
    lab.write(PAIR)
    hold = lab.folder / "hold-SourceSpec-1-0"
    hold.touch()
    head = lab.start()
    lab.wait_for("SourceSpec-1-0")
    family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    node = max(family, key=lambda process: process.create_time())
    for process in family:
        if process != node:
            process.send_signal(signal.SIGKILL)
    head.wait()
    assert node.is_running()
    second = lab.start()
    for line in second.stdout:
        if "another process is making it; waiting" in line:
            break
    hold.unlink()
    output, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 0, output
    assert lab.runs == ["SourceSpec-1-0", "SumSpec-3-0"]
