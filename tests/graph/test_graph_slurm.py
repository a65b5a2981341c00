"""Jobs of Slurm: by the stand-in of fakes/slurm.py always, and by Debian's slurm-wlm too where that is installed."""

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from fakes.slurm import SlurmWlm, StandIn, programs

from ssl_sat.graph import job, slurm
from ssl_sat.graph.attempt import Attempts
from ssl_sat.graph.endings import read_note
from ssl_sat.graph.planner import make_plan
from ssl_sat.graph.resources import Resources
from ssl_sat.graph.settings import LaunchSpec, SlurmSpec

TIMEOUT = 400
SMALL = """
name: sums
question: How far does it come?
nodes:
  source: {stage: fake_source}
  sum: {stage: fake_sum, needs: {left: source}, foreach: {value: [3, 4]}}
  end: {stage: fake_sum, overrides: [value=5], needs: {right: sum-value3}}
"""
TINY = ("resources.default.gpus=0", "resources.default.cpus=1", "resources.default.memory_gb=0.1",
        "resources.default.hours=0.2")  # fmt: skip


@pytest.fixture(params=[StandIn, *([SlurmWlm] if programs() else [])], ids=lambda kind: kind.name)
def cluster(request, tmp_path_factory):
    made = request.param(tmp_path_factory.mktemp("cluster") / "here")
    yield made
    made.stop()


def kill_all(head):
    for process in [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]:
        process.kill()
    head.wait()


def until(there):
    end = time.monotonic() + TIMEOUT
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_nodes_are_jobs_that_outlive_their_command(lab, cluster):
    """A refused submission, Ctrl-C, a lost machine (or a killed node), a killed head: each node is made once."""
    plan = make_plan(lab.write(SMALL))
    hold = lab.folder / "hold-SumSpec-3-0"
    hold.touch()
    line = ["launch=slurm", "jobs=2", "slurm.poll_s=0.3", "pause_s=0", *TINY]
    if isinstance(cluster, StandIn):
        cluster.refuse_once()
    head = lab.start(*line, env=cluster.env)
    lab.wait_for("SumSpec-3-0")
    lab.wait_for("SumSpec-4-0")
    until(lambda: read_note(plan.folder, "sum-value4").get("state") == "done")  # or it would be cancelled too
    head.send_signal(signal.SIGINT)
    output, _ = head.communicate(timeout=TIMEOUT)
    assert head.returncode == 130 and "submitted as job" in output, output
    assert not isinstance(cluster, StandIn) or "Socket timed out on send/recv operation; trying again" in output

    head = lab.start(*line, env=cluster.env)
    lab.wait_for("SumSpec-3-0", times=2)  # the cancelled job is no hindrance to a new one
    note = read_note(plan.folder, "sum-value3")
    if isinstance(cluster, StandIn):
        cluster.lose_machine(note["job"])
    else:
        psutil.Process(note["pid"]).kill()
    lab.wait_for("SumSpec-3-0", times=3)  # the same command tries again by itself
    kill_all(head)

    number = read_note(plan.folder, "sum-value3")["job"]
    head = lab.start(*line, env=cluster.env)
    found = next(text for text in head.stdout if "in the queue already" in text)
    assert f"sum-value3: job {number} is in the queue already; following it" in found
    hold.unlink()
    output, _ = head.communicate(timeout=TIMEOUT)
    assert head.returncode == 0, output
    assert [lab.runs.count(name) for name in ("SourceSpec-1-0", "SumSpec-3-0", "SumSpec-4-0", "SumSpec-5-0")] == [
        1, 3, 1, 1,
    ]  # fmt: skip
    assert "2 done before, 2 made now" in output


def test_the_script_asks_for_what_the_stage_needs(lab):
    lab.write("name: big\nquestion: '?'\nnodes:\n  train: {stage: fake_train, resources: {gpus: 4, hours: 2.5}}\n")
    asked = {"fake_train": Resources(partition="gpu", memory_gb=64), "default": Resources(cpus=16)}
    plan = make_plan(lab.graph, resources=asked)
    node = plan.nodes[0]
    site = SlurmSpec(account="earth", options=("--constraint=h100",), setup=("module load cuda",))
    text = slurm.script(plan, node, site, memory=2.0)
    heads = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    log = plan.folder.resolve() / "logs" / "train.log"
    assert heads == [
        f"--job-name=ssl_sat-{node.fingerprint[:12]}-train", f"--output={log}", "--open-mode=append", "--nodes=1",
        "--ntasks-per-node=1", "--cpus-per-task=16", "--mem=131072M", "--time=150", "--partition=gpu",
        "--account=earth", "--gpus-per-node=4", "--signal=TERM@120", "--no-requeue", "--constraint=h100",
    ]  # fmt: skip
    assert text.index("module load cuda") < text.index("exec srun")
    assert "-m torch.distributed.run --nnodes=1 --nproc-per-node=4" in text
    assert subprocess.run(["bash", "-n", "-c", text]).returncode == 0
    single = slurm.script(plan, make_plan(lab.graph, resources={"fake_train": Resources(gpus=1)}).nodes[0], SlurmSpec())
    assert "torch.distributed" not in single and "--partition" not in single


def test_a_job_is_known_by_its_artifact(lab):
    node = make_plan(lab.graph).by_id["source"]
    mine = slurm.Job("7", "PENDING", "Priority", f"ssl_sat-{node.fingerprint[:12]}-called_otherwise")
    over = slurm.Job("6", "FAILED", "None", mine.name)
    assert slurm.living(node, [over, mine]) == mine
    assert slurm.living(node, [over]) is None and over.ended
    assert slurm.living(make_plan(lab.graph).by_id["middle-seed0"], [mine]) is None


def test_how_the_end_of_a_job_is_judged(lab):
    plan = make_plan(lab.graph)
    path = plan.write().resolve()
    LaunchSpec(launch="slurm").write(plan.folder)
    attempts = Attempts(path, "source")
    record = plan.folder / "slurm" / "source.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"job": "7", "fingerprint": attempts.node.fingerprint, "memory": 1.0}))
    ends = {state: job._judged(attempts, "7", state) for state in ("TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "FAILED")}
    assert [(end.transient, end.limited) for end in ends.values()] == [
        (True, True), (True, False), (True, False), (False, False),
    ]  # fmt: skip
    assert "before the node began" in ends["FAILED"].cause
    assert json.loads(record.read_text())["memory"] == 2.0  # the next job asks for more
    assert not job._judged(attempts, "7", "CANCELLED").transient
    assert job._judged(attempts, "8", "CANCELLED by 0").transient  # another experiment's, stopped by its user
    done = Path(attempts.node.artifact)
    done.mkdir(parents=True)
    (done / "artifact.json").write_text(json.dumps({"fingerprint": attempts.node.fingerprint}))
    assert job._judged(attempts, "8", "COMPLETED").status == 0  # made by another experiment's job
    plain, attempts.node = attempts.node, replace(attempts.node, stale=["fake_numbers"])
    assert not attempts.marker.exists() and job._judged(attempts, "8", "COMPLETED").transient  # it may be old
    attempts.node = plain
    attempts.note(state="failed", status=2, error="a mistake")
    assert (job._judged(attempts, "7", "FAILED").status, job._judged(attempts, "7", "FAILED").transient) == (2, False)
    attempts.note(state="running")
    assert job._judged(attempts, "7", "FAILED").transient
    attempts.marker.touch()
    assert job._judged(attempts, "7", "COMPLETED").status == 0


def test_one_look_at_the_queue_serves_all(tmp_path, monkeypatch):
    standin = StandIn(tmp_path / "slurm")
    for key, value in standin.env.items():
        monkeypatch.setenv(key, value)
    folder = tmp_path / "view"
    assert slurm.queue(folder, 60.0) == [] and not slurm.accounted()
    (standin.jobs / "100").mkdir()
    for name, text in {"state": "PENDING", "name": "ssl_sat-x"}.items():
        (standin.jobs / "100" / name).write_text(text)
    assert slurm.queue(folder, 60.0) == []  # another node has just looked
    assert [item.id for item in slurm.queue(folder, 0.0)] == ["100"]
    (standin.jobs / "100" / "state").write_text("COMPLETED")
    assert slurm.queue(folder, 60.0)[0].state == "PENDING"
    assert slurm.queue(folder, 60.0, since=time.time())[0].ended  # a job submitted after the last look
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(slurm.NoAnswer, match="squeue"):
        slurm.queue(folder, 0.0)
