"""The command: environment, exit status, the next step; and that it writes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes import eurosat

from ssl_sat import config
from ssl_sat.diagnosis import environment
from ssl_sat.doctor import DoctorSpec, run
from ssl_sat.pack import PACK, PackSpec
from ssl_sat.spec import ConfigError
from ssl_sat.stage import execute


def test_the_yaml_fits_the_spec_and_mistakes_are_told() -> None:
    spec = config.compose("doctor", DoctorSpec, ["data=eurosat_rgb", "data.root=/x", "deep=true"])
    assert spec.data.name == "eurosat_rgb" and spec.deep and spec.samples == 256
    assert config.compose("doctor", DoctorSpec, []).data is None
    with pytest.raises(ConfigError, match="did you mean 'samples'"):
        config.compose("doctor", DoctorSpec, ["smples=3"])
    with pytest.raises(ConfigError, match="did you mean 'eurosat_rgb'"):
        config.compose("doctor", DoctorSpec, ["data=eurosat_rbg"])
    with pytest.raises(ConfigError, match="one thing at a time"):
        config.compose("doctor", DoctorSpec, ["data=eurosat_rgb", "pack=x"])


def doctor(monkeypatch, capsys, *overrides: str) -> str:
    """The command in this process; its output."""
    monkeypatch.setattr("sys.argv", ["doctor", *overrides])
    run(config.compose("doctor", DoctorSpec, [*overrides, "progress=false"]))
    return capsys.readouterr().out


def test_nothing_in_the_way_and_what_is_next(outputs, monkeypatch, capsys) -> None:
    root = outputs.parent / "EuroSAT_RGB"
    eurosat.write_rgb(root)
    eurosat.write_lists(outputs.parent / "eurosat_splits")
    before = sorted(outputs.parent.rglob("*"))
    data = ("data=eurosat_rgb", f"data.root={root}")
    told = doctor(monkeypatch, capsys, *data)
    assert "WRONG" not in told and told.endswith(f"next: python -m ssl_sat.pack data=eurosat_rgb 'data.root={root}'\n")
    assert sorted(outputs.parent.rglob("*")) == before  # no outputs, no leftovers
    made = execute(PACK, config.compose("pack", PackSpec, [*data, "progress=false"]))
    assert f"ok    packed       already, in {Path('outputs', 'pack', made.path.name)}" in doctor(
        monkeypatch, capsys, *data
    )
    told = doctor(monkeypatch, capsys, "pack=outputs/pack/latest", "deep=true")
    assert "all 15 records have their digests" in told and "next: python -m ssl_sat.pretrain pack=" in told
    (made.path / "patches.bin").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        doctor(monkeypatch, capsys, "pack=outputs/pack/latest")
    assert ended.value.code == 1


def test_status_1_when_something_must_be_repaired(outputs, command) -> None:
    done = command("doctor", "data=ucmerced", "data.root=nowhere", "progress=false")
    assert done.returncode == 1
    assert "1 thing to repair (WRONG above) before a run can start" in done.stdout and "Traceback" not in done.stderr


def test_packages() -> None:
    needed = environment.requirements()
    assert "numpy>=2.0" in needed
    assert environment.packages(needed).state == "ok"
    found = environment.packages(
        ["numpy>=99", "no-such-package>=1", "torchvision", "pydantic >=2.10; python_version>'3'"]
    )
    assert found.state == "WRONG" and "no-such-package is missing" in found.text and "is older than 99" in found.text
    assert "torchvision" not in found.text and "pydantic" not in found.text and found.then


def test_outputs_folder(tmp_path, monkeypatch) -> None:
    states = [finding.state for finding in environment.outputs_folder(tmp_path / "not" / "yet")]
    assert states == ["ok", "ok"] and not list(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    disk, _ = environment.outputs_folder(tmp_path)
    assert disk.state == "note" and disk.text.startswith("1.0 MB free")

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(environment.os, "symlink", refuse)  # a file system without links
    *_, outputs = environment.outputs_folder(tmp_path)
    assert outputs.state == "WRONG" and "Permission denied" in outputs.text
    assert not [path for path in tmp_path.iterdir() if Path(path).name.startswith(".doctor")]
