import json
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_sat.artifact import hash_files
from ssl_sat.graph import stages
from ssl_sat.spec import MissingInput, runtime
from ssl_sat.stage import Stage, StageSpec, execute
from ssl_sat.verify import verify

NOISE = {"step": 0}


class NumberSpec(StageSpec):
    value: int = 1
    source: str | None = runtime(None)


def _run(spec, inputs, out):
    total = spec.value + sum(item.metrics["total"] for item in inputs.values()) + NOISE["step"]
    (out / "model.safetensors").write_bytes(str(total).encode())
    return {"total": total}


def _inputs(spec, lookup):
    return {"source": lookup.artifact("number", spec.source)} if spec.source else {}


NUMBER = Stage("number", 1, NumberSpec, _run, lambda s, i: f"v{s.value}", _inputs)


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Two artifacts, the second made from the first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(stages._BUILT_IN, "number", f"{__name__}:NUMBER")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    stages.stage_named.cache_clear()
    first = execute(NUMBER, NumberSpec(value=2))
    second = execute(NUMBER, NumberSpec(value=3, source=str(first.path)))
    yield first, second
    stages.stage_named.cache_clear()
    NOISE["step"] = 0


def wrong(findings):
    return [finding.text for finding in findings if finding.state == "WRONG"]


def test_a_sound_artifact_passes_and_its_replay_is_the_same(chain):
    findings = verify(chain[1].path, replay=True)
    assert {finding.state for finding in findings} == {"ok"}
    texts = [finding.text for finding in findings]
    assert f"input source is number {chain[0].fingerprint[:8]}" in texts
    assert "replay: model.safetensors: the same bytes" in texts and "replay: metrics.json: the same bytes" in texts


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "model.safetensors").write_bytes(b"6"), "file model.safetensors: changed"),
        (lambda p: (p / "model.safetensors").unlink(), "file model.safetensors: absent"),
        (lambda p: (p / "notes.txt").write_text("mine"), "file notes.txt: not part of the artifact"),
    ],
)
def test_damage_is_named(chain, damage, message):
    damage(chain[1].path)
    assert wrong(verify(chain[1].path)) == [message]


def test_a_changed_config_is_found_even_when_its_hash_was_mended(chain):
    path = chain[1].path
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "value": 4}))
    (path / "files.json").write_text(json.dumps(hash_files(path)))
    (text,) = wrong(verify(path))
    assert text.startswith("fingerprint: recorded") and chain[1].fingerprint[:8] in text


def test_a_missing_input_is_found(chain):
    chain[0].path.rename(chain[0].path.with_name("elsewhere"))
    texts = wrong(verify(chain[1].path, replay=True))
    assert len(texts) == 1 and texts[0].startswith(f"input source ({chain[0].fingerprint[:8]}): no ")


def test_a_replay_with_other_numbers_fails(chain):
    NOISE["step"] = 1
    texts = wrong(verify(chain[0].path, replay=True))
    assert texts == [
        "replay: metrics.json: 1 of 1 differ: total 2 against 3",
        "replay: model.safetensors: other bytes",
    ]


def test_no_artifact(tmp_path):
    with pytest.raises(MissingInput, match="no artifact at"):
        verify(tmp_path / "nothing")


def test_the_command_line_returns_a_status(chain):
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-m", "ssl_sat.verify"]
    helped = subprocess.run([*command, "--help"], env=env, capture_output=True, text=True)
    assert helped.returncode == 0 and "--replay" in helped.stdout
    absent = subprocess.run([*command, "nothing"], env=env, capture_output=True, text=True)
    assert absent.returncode == 2 and absent.stderr.startswith("error: no artifact at nothing")
    (chain[0].path / "model.safetensors").unlink()
    damaged = subprocess.run([*command, str(chain[0].path)], env=env, capture_output=True, text=True)
    assert damaged.returncode == 1 and "WRONG   file model.safetensors: absent" in damaged.stdout


def test_an_input_that_was_made_again_is_found(chain):
    first, second = chain
    first.path.rename(first.path.with_name("elsewhere"))
    NOISE["step"] = 100
    assert execute(NUMBER, NumberSpec(value=2)).metrics == {"total": 102}
    NOISE["step"] = 0
    which = f"input source is number {first.fingerprint[:8]}"
    assert wrong(verify(second.path)) == [f"{which}, but made again since: its files are not those that went in"]
    record = {key: value for key, value in second.record.items() if key != "input_files"}
    (second.path / "artifact.json").write_text(json.dumps(record))  # as artifacts were before
    findings = verify(second.path)
    assert wrong(findings) == []
    assert f"{which}, made again since; what it held before was not recorded" in [
        finding.text for finding in findings if finding.state == "note"
    ]
