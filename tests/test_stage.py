"""Stages: one artifact per fingerprint, whatever is killed, repeated, moved or run at once."""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssl_sat import artifact
from ssl_sat.artifact import Artifact
from ssl_sat.spec import MissingInput, UserError
from ssl_sat.stage import Lookup, execute, fingerprint, is_main_process, plan

# A stage of its own module, so that a subprocess can run it and a test can edit its code.
TOY = '''
"""A toy stage: adds up numbers, one file each, so that a kill can come between."""
import os, time
from pathlib import Path
from typing import Any, ClassVar, Literal
from pydantic import SerializeAsAny
from ssl_sat.registry import Registry
from ssl_sat.spec import Spec, runtime
from ssl_sat.stage import Stage, StageSpec, execute, record_facts

class OneSpec(Spec):
    name: Literal["one", "two"] = "one"
    size: int = 1

PARTS = Registry("part")
PARTS.add("one", "toy:build", OneSpec, version=1)
PARTS.add("two", "toy:build", OneSpec, version=1)
DATA = Registry("data")
DATA.add("one", "toy:build", OneSpec, version=1)

def build(spec): return spec.size

class ToySpec(StageSpec):
    registries: ClassVar = {"part": PARTS, "source": DATA}
    part: SerializeAsAny[OneSpec] = OneSpec()
    source: SerializeAsAny[OneSpec] | None = runtime(None)
    base: str | None = runtime(None)
    numbers: tuple[int, ...] = (1, 2)
    device: str = runtime("cpu")
    pause: float = runtime(0.0)

def run(spec, inputs, out):
    record_facts(out, device=spec.device)
    for number in spec.numbers:
        path = Path(out) / f"{number}.txt"
        if not path.exists():
            with open("log.txt", "a") as log:
                log.write(f"{number}\\n")
            path.write_text(str(number))
            time.sleep(spec.pause)
    total = sum(int((Path(out) / f"{n}.txt").read_text()) for n in spec.numbers)
    return {"total": total + sum(a.metrics["total"] for a in inputs.values())}

def find(spec, lookup):
    return {} if spec.base is None else {"base": lookup.artifact("toy", spec.base)}

TOY = Stage("toy", 1, ToySpec, run, lambda spec, inputs: f"{spec.part.name}/n", find)

if __name__ == "__main__":
    import sys
    execute(TOY, ToySpec.parse(eval(sys.argv[1])))
'''


@pytest.fixture
def toy(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    Path("toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    sys.modules.pop("toy", None)
    importlib.invalidate_caches()
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    yield importlib.import_module("toy")
    sys.modules.pop("toy", None)


def start(env: dict[str, str] | None = None, **values: Any) -> "subprocess.Popen[str]":
    line = [sys.executable, "toy.py", repr(values)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})


def worked() -> list[int]:
    """The numbers worked on so far, in order, over all processes."""
    return [int(line) for line in Path("log.txt").read_text().split()] if Path("log.txt").exists() else []


def test_golden_fingerprint(toy: Any) -> None:
    identity = (
        '{"inputs": {}, "science": {"numbers": [1, 2], "part": {"name": "one", "size": 1}}, '
        '"stage": "toy", "versions": {"part:one": 1, "toy": 1}}'
    )
    assert fingerprint(toy.TOY, toy.ToySpec(), {}) == hashlib.sha256(identity.encode()).hexdigest()
    assert fingerprint(toy.TOY, toy.ToySpec(), {}).startswith("97cc430db3fd9d2c")


def test_fingerprint_follows_science_versions_and_inputs_alone(toy: Any, outputs: Path) -> None:
    base = execute(toy.TOY, toy.ToySpec(numbers=(9,))).ref

    def print_of(stage: Any = toy.TOY, inputs: Any = None, **values: Any) -> str:
        return fingerprint(stage, toy.ToySpec.parse(values), inputs or {})

    plain = print_of()
    for values in ({"device": "cuda"}, {"outputs": "/x"}, {"stale": "error"}, {"source": {"name": "one"}}):
        assert print_of(**values) == plain  # an input's fingerprint stands for its own source
    changed = [
        print_of(numbers=(2, 1)),
        print_of(part={"name": "two"}),
        print_of(part={"name": "one", "size": 2}),
        print_of(replace(toy.TOY, version=2)),
        print_of(replace(toy.TOY, name="other")),
        print_of(inputs={"base": base}),
        print_of(inputs={"init": base}),
    ]
    toy.PARTS._entries["one"] = replace(toy.PARTS["one"], version=2)
    assert len({plain, *changed, print_of()}) == len(changed) + 2


def test_an_artifact_is_complete_and_named_by_its_choices(toy: Any, outputs: Path) -> None:
    spec = toy.ToySpec(device="tpu")
    done = execute(toy.TOY, spec)
    name = f"one_n-{done.fingerprint[:8]}"  # the / of `choices` makes no folder
    assert done.path == outputs / "toy" / name
    assert [os.readlink(outputs / "toy" / link) for link in ("latest", "one_n")] == [name, name]
    assert done.metrics == {"total": 3}
    assert done.config == spec.model_dump(mode="json")
    assert done.json("provenance.json")["device"] == "tpu"
    assert done.json("provenance.json")["resumed"] is False
    assert done.damaged() == []
    assert sorted(p.name for p in done.path.iterdir()) == [
        "1.txt", "2.txt", "artifact.json", "config.json", "files.json", "metrics.json", "provenance.json",
    ]  # fmt: skip


def test_it_is_made_once(toy: Any, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = execute(toy.TOY, toy.ToySpec())
    before = (first.path / "artifact.json").stat().st_mtime_ns
    other = execute(toy.TOY, toy.ToySpec(numbers=(5,)))
    capsys.readouterr()
    again = execute(toy.TOY, toy.ToySpec(outputs=str(outputs)))  # absolute, and the same place
    assert capsys.readouterr().out == f"toy: already done, outputs/toy/{first.path.name}\n"  # relative: it lies here
    assert (again.path, (again.path / "artifact.json").stat().st_mtime_ns) == (first.path, before)
    assert worked() == [1, 2, 5]
    assert os.readlink(outputs / "toy" / "latest") == first.path.name != other.path.name


@pytest.mark.parametrize("which", ["latest", "one_n", "path"])
def test_inputs_by_latest_by_choices_and_by_path(toy: Any, outputs: Path, which: str) -> None:
    first = execute(toy.TOY, toy.ToySpec())
    value = {"latest": "latest", "one_n": "outputs/toy/one_n", "path": str(first.path)}[which]
    second = execute(toy.TOY, toy.ToySpec(numbers=(4,), base=value))
    assert second.metrics == {"total": 7}
    assert second.record["inputs"] == {"base": first.fingerprint}
    assert second.record["input_paths"] == {"base": f"toy/{first.path.name}"}


def test_inputs_are_resolved_once(toy: Any, outputs: Path) -> None:
    first = execute(toy.TOY, toy.ToySpec())
    calls = []

    def find(spec: Any, lookup: Lookup) -> Any:
        calls.append(1)
        found = toy.find(spec, lookup)
        if len(calls) == 1:  # another process finishes something: `latest` moves
            execute(toy.TOY, toy.ToySpec(numbers=(100,)))
        return found

    second = execute(replace(toy.TOY, inputs=find), toy.ToySpec(numbers=(4,), base="latest"))
    assert (second.metrics, second.record["inputs"]) == ({"total": 7}, {"base": first.fingerprint})


def test_wrong_inputs_say_what_to_do(toy: Any, outputs: Path) -> None:
    with pytest.raises(MissingInput, match=r"no finished toy under outputs/toy\. Make one: python -m ssl_sat\.toy"):
        execute(toy.TOY, toy.ToySpec(base="latest"))
    first = execute(toy.TOY, toy.ToySpec())
    with pytest.raises(UserError, match="of stage 'toy'; one of stage 'pretrain' is needed"):
        Lookup(outputs).artifact("pretrain", str(first.path))


def test_the_inputs_of_an_artifact_in_other_outputs_are_found(toy: Any, outputs: Path) -> None:
    first = execute(toy.TOY, toy.ToySpec(outputs="elsewhere"))
    second = execute(toy.TOY, toy.ToySpec(outputs="elsewhere", base=str(first.path), numbers=(3,)))
    assert Lookup(outputs).input_of(second.ref, "base", "toy").path == first.path


def test_a_plan_makes_nothing(toy: Any, outputs: Path) -> None:
    ref = plan(toy.TOY, toy.ToySpec(), Lookup(outputs))
    assert not outputs.exists()
    assert execute(toy.TOY, toy.ToySpec()).path == ref.path.resolve()


def test_a_kill_leaves_a_partial_and_the_same_command_finishes_it(toy: Any, outputs: Path) -> None:
    numbers = tuple(range(1, 6))
    process = start(numbers=numbers, pause=0.5)
    deadline = time.monotonic() + 60
    while 2 not in worked() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    ref = plan(toy.TOY, toy.ToySpec(numbers=numbers), Lookup(outputs))
    partial = ref.path.with_name(f"{ref.path.name}.partial")
    assert not ref.path.exists() and not os.path.lexists(outputs / "toy" / "latest")
    assert (partial / "1.txt").exists()
    with pytest.raises(MissingInput, match="not a finished artifact"):
        Artifact.open(partial)
    before = worked()
    done = execute(toy.TOY, toy.ToySpec(numbers=numbers, device="cuda"))  # another runtime, the same artifact
    assert done.path == ref.path.resolve()
    assert worked()[: len(before)] == before and worked().count(1) == 1
    assert done.metrics == {"total": 15}
    assert done.json("provenance.json")["resumed"] is True
    assert done.damaged() == [] and not partial.exists()


def test_a_kill_just_before_the_rename_is_mended(toy: Any, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssl_sat.artifact.os.rename", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(toy.TOY, toy.ToySpec())
    (partial,) = (outputs / "toy").glob("*.partial")
    assert (partial / "artifact.json").exists()

    def run(spec: Any, inputs: Any, out: Path) -> Any:
        assert not (out / "artifact.json").exists()  # while it is being resumed, it must not pass for finished
        return toy.run(spec, inputs, out)

    assert execute(replace(toy.TOY, run=run), toy.ToySpec()).damaged() == []


def test_two_processes_make_one_artifact(toy: Any, outputs: Path) -> None:
    both = [start(numbers=(1, 2, 3), pause=0.3) for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert worked() == [1, 2, 3]
    assert sum("toy: making" in text for text in texts) == 1
    assert sum("toy: already done" in text for text in texts) == 1
    assert len([p for p in (outputs / "toy").iterdir() if p.is_dir() and not p.is_symlink()]) == 1


def test_bad_metrics_are_refused_and_nothing_is_published(toy: Any, outputs: Path) -> None:
    for bad in (float("nan"), {"nested": 1}):
        stage = replace(toy.TOY, run=lambda spec, inputs, out, bad=bad: {"loss": bad})
        with pytest.raises(ValueError, match="metric loss"):
            execute(stage, toy.ToySpec())
    assert [p.suffix for p in (outputs / "toy").iterdir() if p.is_dir()] == [".partial"]


def test_a_folder_in_the_way_is_an_error_before_the_work(toy: Any, outputs: Path) -> None:
    plan(toy.TOY, toy.ToySpec(), Lookup(outputs)).path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"is in the way: no finished artifact\. Move it away"):
        execute(toy.TOY, toy.ToySpec())
    assert worked() == []


def test_an_artifact_moved_to_an_archive_keeps_its_place(toy: Any, outputs: Path) -> None:
    done = execute(toy.TOY, toy.ToySpec())
    archive = outputs.parent / "archive"
    archive.mkdir()
    done.path.rename(archive / "x")
    done.path.symlink_to(archive / "x")
    assert execute(toy.TOY, toy.ToySpec()).path == archive / "x"
    assert [p.name for p in archive.iterdir()] == ["x"]
    assert os.readlink(outputs / "toy" / "latest") == done.path.name
    assert worked() == [1, 2]


def edited(toy: Any, old: str, new: str) -> Any:
    """The toy's module with its source edited; the modules recorded are then `toy` itself."""
    Path("toy.py").write_text(Path("toy.py").read_text().replace(old, new))
    importlib.invalidate_caches()
    return toy


def test_stale_code_is_named_remade_or_refused(toy: Any, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = execute(toy.TOY, toy.ToySpec())
    assert list(first.record["code"]) == ["toy"]
    edited(toy, "def build(spec): return spec.size", "def build(spec):\n    'Docstring.'\n    return spec.size  # why")
    capsys.readouterr()
    execute(toy.TOY, toy.ToySpec(stale="error"))
    assert "stale:" not in capsys.readouterr().out
    edited(toy, "return spec.size", "return spec.size + 1")
    assert execute(toy.TOY, toy.ToySpec()).record == first.record
    assert "was made by other code of: toy (stale=warn)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other code of: toy\. Choose stale=rerun"):
        execute(toy.TOY, toy.ToySpec(stale="error"))

    def fail(spec: Any, inputs: Any, out: Path) -> Any:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        execute(replace(toy.TOY, run=fail), toy.ToySpec(stale="rerun"))
    assert Artifact.open(first.path).damaged() == []  # the old one stays until the new one is there
    again = execute(toy.TOY, toy.ToySpec(stale="rerun"))
    assert again.path == first.path and again.record["code"] != first.record["code"]
    (old,) = (outputs / "toy").glob("*.stale-*")
    assert Artifact.open(old).record == first.record
    assert worked() == [1, 2, 1, 2]
    execute(toy.TOY, toy.ToySpec(stale="error"))


@pytest.mark.parametrize("stale", ["warn", "rerun", "error"])
def test_a_partial_remembers_the_code_it_began_with(toy: Any, outputs: Path, stale: str) -> None:
    def half(spec: Any, inputs: Any, out: Path) -> Any:
        (out / "1.txt").write_text("1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        execute(replace(toy.TOY, run=half), toy.ToySpec())
    edited(toy, "return spec.size", "return spec.size + 1")
    if stale == "error":
        with pytest.raises(UserError, match=r"partial was made by other code of: toy"):
            execute(toy.TOY, toy.ToySpec(stale="error"))
        return
    done = execute(toy.TOY, toy.ToySpec(stale=stale))
    assert worked() == ([2] if stale == "warn" else [1, 2])
    if stale == "warn":  # mixed code stays visible
        with pytest.raises(UserError, match="other code of: toy"):
            execute(toy.TOY, toy.ToySpec(stale="error"))
    else:
        assert execute(toy.TOY, toy.ToySpec(stale="error")).path == done.path
        assert len(list((outputs / "toy").glob("*.partial.stale-*"))) == 1


@pytest.mark.parametrize(
    "environment, main",
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, True),  # torchrun inside Slurm
        ({"RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # Lightning's own processes in an interactive job
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"NODE_RANK": "1"}, False),
    ],
)
def test_the_main_process(toy: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], main: bool) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is main


def test_other_ranks_write_nothing(toy: Any, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = execute(toy.TOY, toy.ToySpec())
    before = {p: p.lstat().st_mtime_ns for p in outputs.rglob("*")}
    monkeypatch.setenv("RANK", "1")
    seen = []
    stage = replace(toy.TOY, run=lambda spec, inputs, out: seen.append(out), distributed=True)
    assert execute(stage, toy.ToySpec()).path == first.path
    assert seen == []  # done already: nobody runs, so nobody waits for the others
    execute(stage, toy.ToySpec(numbers=(7,), base="latest"))
    assert [path.suffix for path in seen] == [".partial"]
    assert {p: p.lstat().st_mtime_ns for p in outputs.rglob("*")} == before


def test_other_ranks_wait_for_what_one_process_makes(toy: Any, outputs: Path) -> None:
    other = start(env={"RANK": "1"}, numbers=(1, 2))
    time.sleep(0.5)
    main = start(env={"RANK": "0"}, numbers=(1, 2), pause=0.3)
    assert [main.wait(timeout=60), other.wait(timeout=60)] == [0, 0]
    assert worked() == [1, 2]
    assert other.communicate()[0] == ""


def test_a_home_folder_needs_no_shell(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert toy.ToySpec(outputs="~/runs").outputs == "/home/someone/runs"


def test_order_of_a_mapping_in_the_config_is_kept(toy: Any, outputs: Path) -> None:
    done = execute(toy.TOY, toy.ToySpec())
    assert list(json.loads((done.path / "config.json").read_text()))[:3] == ["outputs", "stale", "part"]


def chain_whose_base_was_made_again(toy: Any) -> tuple[Artifact, Artifact]:
    """An artifact of 3 + 1, and its base, which is 11 by now."""
    base = execute(toy.TOY, toy.ToySpec(numbers=(1,)))
    top = execute(toy.TOY, toy.ToySpec(numbers=(3,), base=str(base.path)))
    assert top.metrics == {"total": 4} and top.record["input_files"] == {"base": artifact.held(base.path)}
    edited(toy, "return spec.size", "return spec.size + 1")
    more = replace(toy.TOY, run=lambda spec, inputs, out: {"total": 10 + toy.run(spec, inputs, out)["total"]})
    again = execute(more, toy.ToySpec(numbers=(1,), stale="rerun"))
    assert again.metrics == {"total": 11} and again.fingerprint == base.fingerprint
    edited(toy, "return spec.size + 1", "return spec.size")  # the code of `top` is as it was
    return top, again


@pytest.mark.parametrize("stale", ["warn", "rerun", "error"])
def test_an_input_that_was_made_again_makes_stale_what_it_went_into(
    toy: Any, outputs: Path, capsys: pytest.CaptureFixture[str], stale: str
) -> None:
    top, base = chain_whose_base_was_made_again(toy)
    spec = toy.ToySpec(numbers=(3,), base=str(base.path), stale=stale)
    if stale == "error":
        with pytest.raises(UserError, match=r"was made before these inputs were made again: base\. Choose stale=rerun"):
            execute(toy.TOY, spec)
        return
    now = execute(toy.TOY, spec)
    assert now.fingerprint == top.fingerprint and now.metrics == {"total": 14 if stale == "rerun" else 4}
    assert f"made before these inputs were made again: base (stale={stale})" in capsys.readouterr().out
    execute(toy.TOY, replace_stale(spec, "error") if stale == "rerun" else spec)
    assert ("made again" in capsys.readouterr().out) == (stale == "warn")


def replace_stale(spec: Any, stale: str) -> Any:
    return spec.model_copy(update={"stale": stale})


def test_a_partial_remembers_the_inputs_it_began_with(toy: Any, outputs: Path) -> None:
    top, base = chain_whose_base_was_made_again(toy)
    spec = toy.ToySpec(numbers=(3,), base=str(base.path))
    half = top.path.with_name(f"{top.path.name}.partial")
    os.rename(top.path, half)  # as if its run had not come to its end
    (half / ".began.json").write_text(json.dumps(top.record["code"]))
    (half / ".fed.json").write_text(json.dumps(top.record["input_files"]))
    with pytest.raises(UserError, match="partial was made before these inputs were made again: base"):
        execute(toy.TOY, replace_stale(spec, "error"))
    mixed = execute(toy.TOY, spec)
    assert mixed.record["input_files"] == top.record["input_files"]  # stays marked by what it began with
    with pytest.raises(UserError, match="made before these inputs were made again: base"):
        execute(toy.TOY, replace_stale(spec, "error"))


def test_artifacts_of_before_inputs_were_recorded_are_believed_unless_the_input_is_younger(
    toy: Any, outputs: Path
) -> None:
    def forget(made: Artifact) -> None:
        record = {key: value for key, value in made.record.items() if key != "input_files"}
        (made.path / "artifact.json").write_text(json.dumps(record))

    base = execute(toy.TOY, toy.ToySpec(numbers=(1,)))
    top = execute(toy.TOY, toy.ToySpec(numbers=(3,), base=str(base.path)))
    paths = {"base": base.path}
    forget(top)
    old = Artifact.open(top.path).record
    assert artifact.remade(old, paths) == ["base"]  # made by code that records, it cannot have gone into `top`
    forget(base)
    assert artifact.remade(old, paths) == []
    spec = toy.ToySpec(numbers=(3,), base=str(base.path), stale="error")
    assert execute(toy.TOY, spec).metrics == {"total": 4} and worked() == [1, 3]


def test_what_an_artifact_holds_does_not_depend_on_when_it_was_made(toy: Any, outputs: Path) -> None:
    first = execute(toy.TOY, toy.ToySpec(numbers=(1,)))
    before, files = artifact.held(first.path), first.json("files.json")
    os.rename(first.path, first.path.with_name("elsewhere"))
    again = execute(toy.TOY, toy.ToySpec(numbers=(1,)))
    assert again.json("files.json")["provenance.json"] != files["provenance.json"]
    assert artifact.held(again.path) == before
    assert artifact.held(outputs / "nothing") is None
