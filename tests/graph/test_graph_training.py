"""A real pretraining as a node: killed, the same command goes on from its checkpoint and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ssl_sat.artifact import Artifact, sha256_file

TIMEOUT = 240  # a busy machine is no failure
GRAPH = """
name: killed
question: Does it go on?
nodes:
  pack:
    stage: pack
    overrides: [data=scenes, data.patches_per_class=8]
  pretrain:
    stage: pretrain
    needs: {pack: pack}
    overrides:
      - data=scenes
      - encoder=cnn
      - epochs=2
      - batch_size=4
      - image_size=16
      - optim.warmup_epochs=1
      - trainer.threads=1
      - trainer.accelerator=cpu
      - trainer.checkpoint_every_n_steps=2
      - trainer.log_every_n_steps=1
      - trainer.tensorboard=false
"""


def command(module: str, folder: Path, *overrides: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    line = [sys.executable, "-m", f"ssl_sat.{module}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, cwd=folder, env=env, **pipes)


def finished(process: subprocess.Popen, status: int = 0) -> str:
    said, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, said[-3000:]
    return said


def steps_of(folder: Path) -> list[int]:
    """Steps in the history of the pretraining that is under way."""
    histories = list(folder.glob("outputs/pretrain/*.partial/history.jsonl"))
    rows = [json.loads(line) for line in histories[0].read_text().splitlines()] if histories else []
    return [row["step"] for row in rows if "loss" in row]


def test_a_killed_pretraining_goes_on_with_the_same_command_and_ends_with_the_same_weights(tmp_path):
    (tmp_path / "mine.yaml").write_text(GRAPH)
    head = command("experiment", tmp_path, "graph=./mine.yaml")
    end = time.monotonic() + TIMEOUT
    while len(steps_of(tmp_path)) < 5:
        assert head.poll() is None and time.monotonic() < end, head.communicate()[0]
        time.sleep(0.005)
    node = json.loads((tmp_path / "outputs/.graph/killed/state/pretrain.json").read_text())
    everything = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    assert node["pid"] in [process.pid for process in everything]
    for process in everything:
        process.kill()  # SIGKILL; the head first, which would start the node again
    finished(head, status=-signal.SIGKILL)
    (partial,) = tmp_path.glob("outputs/pretrain/*.partial")
    saved = max(int(path.stem) for path in partial.glob("checkpoints/run/[0-9]*.ckpt"))
    began = partial.stat().st_ino

    assert "2 nodes: 1 done before, 1 made now" in finished(command("experiment", tmp_path, "graph=./mine.yaml"))
    log = (tmp_path / "outputs/.graph/killed/logs/pretrain.log").read_text()
    cut = Artifact.open(tmp_path / "outputs/pretrain/latest")
    assert "pretrain: resuming" in log and cut.json("provenance.json")["resumed"] is True
    assert cut.path.stat().st_ino == began and saved >= 2  # the folder that was begun, with a checkpoint in it

    overrides = [line.strip(" -") for line in GRAPH.splitlines() if line.startswith("      - ")]
    pack = Artifact.open(tmp_path / "outputs/pack/latest").path
    finished(command("pretrain", tmp_path, *overrides, f"pack={pack}", "outputs=whole"))
    whole = Artifact.open(tmp_path / "whole/pretrain/latest")
    assert whole.json("provenance.json")["resumed"] is False and whole.fingerprint == cut.fingerprint
    for name in ("model.safetensors", "projection_head.safetensors", "metrics.json", "history.jsonl"):
        assert sha256_file(cut.path / name) == sha256_file(whole.path / name), name
