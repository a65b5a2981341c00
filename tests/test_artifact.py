"""Artifacts: published whole or not at all, never overwritten, every byte accounted for."""

import json
import os
from pathlib import Path

import pytest

from ssl_sat import artifact as artifacts
from ssl_sat.artifact import Artifact, check_metrics, publish, write_atomic, write_json
from ssl_sat.spec import MissingInput, UserError

RECORD = {"stage": "toy", "fingerprint": "ab" * 32, "inputs": {}, "choices": "c", "code": {}, "synthetic": False}


def make(folder: Path, name: str = "c-abababab", **changes: object) -> Artifact:
    partial = folder / f"{name}.partial"
    (partial / "sub").mkdir(parents=True)
    (partial / "sub" / "a.txt").write_text("a")
    for file in ("config.json", "metrics.json"):
        write_json(partial / file, {"x": 1})
    return publish(partial, folder / name, {**RECORD, **changes})


def test_a_published_artifact_has_its_hashes(tmp_path: Path) -> None:
    done = make(tmp_path)
    files = done.json("files.json")
    assert sorted(files) == ["config.json", "metrics.json", "sub/a.txt"]
    assert files["sub/a.txt"] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert done.damaged() == []
    assert done.metrics == {"x": 1}
    assert not (tmp_path / "c-abababab.partial").exists()


def test_damage_is_found_file_by_file(tmp_path: Path) -> None:
    done = make(tmp_path)
    (done.path / "sub" / "a.txt").write_text("b")
    (done.path / "config.json").unlink()
    (done.path / "sub" / "artifact.json").write_text("")
    assert done.damaged() == [
        "config.json: absent",
        "sub/a.txt: changed",
        "sub/artifact.json: not part of the artifact",
    ]
    (done.path / "files.json").unlink()
    assert done.damaged() == ["files.json: absent"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    before = make(tmp_path).path
    with pytest.raises(FileExistsError, match="never overwritten"):
        make(tmp_path)
    assert Artifact.open(before).damaged() == []
    for taken in ("empty-abababab", "dangling-abababab"):
        (tmp_path / taken).mkdir() if taken.startswith("empty") else (tmp_path / taken).symlink_to("nowhere")
        with pytest.raises(FileExistsError):
            make(tmp_path, taken)


def test_what_a_killed_write_left_is_not_published(tmp_path: Path) -> None:
    partial = tmp_path / "c-abababab.partial"
    (partial / "sub").mkdir(parents=True)
    for orphan in (".metrics.json.123.tmp", "sub/.model.safetensors.9.tmp"):
        (partial / orphan).write_text("half")
    (partial / "notes.tmp").write_text("mine")
    assert list(publish(partial, tmp_path / "c-abababab", RECORD).json("files.json")) == ["notes.tmp"]


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"no artifact at .*nowhere"):
        Artifact.open(tmp_path / "nowhere")
    (tmp_path / "begun").mkdir()
    with pytest.raises(MissingInput, match="not a finished artifact"):
        Artifact.open(tmp_path / "begun")
    (tmp_path / "begun" / "artifact.json").write_text('{"format": "ssl_sat.art')
    with pytest.raises(UserError, match=r"damaged artifact.json\. Move"):
        Artifact.open(tmp_path / "begun")
    (tmp_path / "begun" / "artifact.json").write_text('{"format": "ssl_sat.artifact/9"}')
    with pytest.raises(UserError, match=r"'ssl_sat.artifact/9', this version reads 'ssl_sat.artifact/1'"):
        Artifact.open(tmp_path / "begun")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {"a": 1}, [1], (1,), object()])
def test_metrics_are_flat_and_finite(bad: object) -> None:
    with pytest.raises(ValueError, match="metric loss is"):
        check_metrics({"a": 1, "loss": bad})


def test_metrics_are_sorted() -> None:
    assert list(check_metrics({"b": None, "a": 1.5, "c": "x", "B": True})) == ["B", "a", "b", "c"]


def test_outputs_are_newest_first_without_links_partials_and_stale_ones(tmp_path: Path) -> None:
    stage = tmp_path / "toy"
    old, new = make(stage, "c-00000001"), make(stage, "c-00000002")
    os.utime(old.path / "artifact.json", ns=(5, 5))
    artifacts.link(stage / "latest", "c-00000001")
    artifacts.link(stage / "c", "c-00000001")
    for hidden in ("c-00000003.partial", "c-00000003.stale-17"):
        (stage / hidden).mkdir()
        (stage / hidden / "artifact.json").write_bytes((old.path / "artifact.json").read_bytes())
    assert [a.path for a in artifacts.outputs_of("toy", tmp_path)] == [new.path, old.path]
    assert artifacts.outputs_of("other", tmp_path) == []
    assert artifacts.latest("toy", tmp_path).path == old.path


def test_links_move_but_never_replace_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "c-00000001"), make(tmp_path, "c-00000002")
    for target in ("c-00000001", "c-00000002"):
        artifacts.link(tmp_path / "latest", target)
        assert os.readlink(tmp_path / "latest") == target
    with pytest.raises(UserError, match=r"is a folder.*Move it away"):
        artifacts.link(tmp_path / "c-00000001", "c-00000002")


def test_latest_of_a_deleted_artifact_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    artifacts.link(tmp_path / "pretrain" / "latest", "gone")
    with pytest.raises(MissingInput, match=r"Make one: python -m ssl_sat\.pretrain"):
        artifacts.latest("pretrain", tmp_path)


def test_find_reads_the_whole_fingerprint(tmp_path: Path) -> None:
    done = make(tmp_path / "toy")
    assert artifacts.find("toy", "ab" * 32, tmp_path).path == done.path
    with pytest.raises(MissingInput, match=r"python -m ssl_sat\.toy"):
        artifacts.find("toy", "ab" * 31 + "00", tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "a.json", "text")  # type: ignore[arg-type]
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
