"""The command line: one clear message for each mistake, before anything heavy is imported; Hydra's habits kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_sat import config
from ssl_sat.finetune import FinetuneSpec
from ssl_sat.ood_eval import OodEvalSpec
from ssl_sat.pack import PackSpec
from ssl_sat.pretrain import PretrainSpec
from ssl_sat.spec import ConfigError, Spec
from ssl_sat.umap_report import UmapReportSpec

SPECS: dict[str, type[Spec]] = {
    "pack": PackSpec,
    "pretrain": PretrainSpec,
    "finetune": FinetuneSpec,
    "ood_eval": OodEvalSpec,
    "umap_report": UmapReportSpec,
}
TINY = ("data=scenes", "data.patches_per_class=3", "progress=false")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def compose(name: str, *overrides: str) -> dict[str, object]:
    return config.compose(name, SPECS[name], overrides).model_dump(mode="json")


def error_of(name: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        compose(name, *overrides)
    return str(error.value)


@pytest.mark.parametrize("name", SPECS)
def test_the_yaml_of_a_command_fits_its_spec(name: str) -> None:
    raw = config.compose_raw(name, [])
    spec = compose(name)
    assert set(raw) - {"epochs"} <= set(spec)


@pytest.mark.parametrize(
    "group", sorted(p.name for p in config.conf_dir().iterdir() if p.is_dir() and p.name != "hydra")
)
def test_every_option_of_a_group_fits_its_spec(group: str) -> None:
    name = {"phases": "finetune", "imbalance": "finetune", "detector": "ood_eval"}.get(group, "pretrain")
    for path in (config.conf_dir() / group).glob("*.yaml"):
        if group == "detector":
            assert compose(name, f"detectors=[{path.stem}]")["detectors"][0]["name"] == path.stem  # type: ignore[index]
        else:
            assert compose(name, f"{group}={path.stem}")[group]


@pytest.mark.parametrize(
    "name, override, message",
    [
        ("pretrain", "epoch=3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("pretrain", "encodr=vit", "unknown key 'encodr'; did you mean 'encoder'?"),
        ("pretrain", "optim.larning_rate=1", "unknown key 'optim.larning_rate'"),
        ("pretrain", "trainer.precison=32-true", "unknown key 'trainer.precison'; did you mean 'trainer.precision'?"),
        ("ood_eval", "mc.pases=3", "unknown key 'mc.pases'; did you mean 'mc.passes'?"),
        ("pretrain", "encoder=vitt", "did you mean 'vit"),
        ("pretrain", "data=euro_sat_rgb", "did you mean 'eurosat_rgb'?"),
        ("ood_eval", "ood=ucmerce", "ood: no 'ucmerce' (there are: bigearthnet_v1,"),
        ("ood_eval", "detectors=[mps]", "detector: no 'mps' (there are: ash, energy,"),
        ("finetune", "stem=by_nam", "did you mean 'by_name'?"),
        ("finetune", "stale=rerum", "Input should be 'warn', 'rerun' or 'error' (got 'rerum'); did you mean 'rerun'?"),
        ("pack", "data.split=oficial", "did you mean 'official'?"),
        ("pretrain", "epochs=0", "epochs: Input should be greater than or equal to 1 (got 0)"),
        ("pretrain", "epochs=two", "epochs: Input should be a valid integer"),
        ("pretrain", "epochs", "'epochs' is not an override; write key=value"),
        ("pack", "encoder=vit", "pack takes no encoder (it chooses data)"),
        ("ood_eval", "data=scenes", "data@ood"),
        ("ood_eval", "ood=null", "ood: ood_eval needs one of bigearthnet_v1"),
        ("pack", "data.root=???", "data.root"),
    ],
)  # fmt: skip
def test_mistakes(name: str, override: str, message: str) -> None:
    assert message in error_of(name, override)


def test_mistakes_end_the_command_before_heavy_imports(command: Command) -> None:
    done = command("pretrain", "epoch=3", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 2
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert not loaded & {"torch", "timm", "rasterio", "pytorch_lightning"}
    assert "error: unknown key 'epoch'; did you mean 'epochs'?" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_ood_is_short_for_data_at_ood() -> None:
    assert compose("ood_eval", "ood=scenes", "ood.seed=4") == compose("ood_eval", "data@ood=scenes", "ood.seed=4")
    assert compose("ood_eval", "ood=scenes")["ood"]["name"] == "scenes"  # type: ignore[index]


def test_null_takes_a_group_away_where_that_is_the_default() -> None:
    assert compose("finetune", "encoder=null") == compose("finetune")
    assert compose("finetune", "encoder=cnn")["encoder"] == {"name": "cnn", "dropout": 0.1}


def test_detectors_by_name_or_with_their_keys() -> None:
    spec = compose("ood_eval", "detectors=[msp,{name:knn,k:7}]")
    assert spec["detectors"] == [{"name": "msp"}, {"name": "knn", "k": 7}]


@pytest.mark.parametrize("path", ["~/a b", "/data/x(1)", "/data/it's", "C:\\x", "/a=b", "/übung", "/data/[1]"])
def test_paths_need_no_quotes_of_hydras_own(path: str) -> None:
    assert compose("pack", "data=npy", f"data.root={path}")["data"]["root"] == path  # type: ignore[index]


def test_a_user_file_that_hides_behind_a_shipped_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "vit.yaml").write_text("name: vit\n")
    assert "encoder/vit.yaml would be ignored" in error_of("pretrain", "--config-dir", str(tmp_path))
    assert "no such folder" in error_of("pretrain", f"--config-dir={tmp_path}/nowhere")


@pytest.mark.parametrize("name", SPECS)
def test_help_lists_groups_and_keys_and_imports_nothing_heavy(name: str, outputs: Path) -> None:
    code = f"""
import atexit, runpy, sys
heavy = {{"torch", "timm", "lightning", "pytorch_lightning", "rasterio", "matplotlib", "umap", "lightly"}}
atexit.register(lambda: print("heavy:", sorted(heavy & set(sys.modules))))
sys.argv = ["{name}", "--help"]
runpy.run_module("ssl_sat.{name}", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
    assert f"python -m ssl_sat.{name} [group=option]" in done.stdout or "[group=option] [key=value]" in done.stdout
    assert "encoder: cnn, convnext, densenet, efficientnet_b0, " in done.stdout
    for key in config.compose_raw(name, []):
        assert f"\n{key}:" in done.stdout
    assert list(Path.cwd().iterdir()) == []


def test_help_may_be_cut_short(outputs: Path) -> None:
    line = f"'{sys.executable}' -m ssl_sat.pretrain --help | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.startswith("python -m ssl_sat.pretrain") and done.stderr == ""


def test_a_command_leaves_its_artifacts_and_nothing_else(command: Command, outputs: Path) -> None:
    shown = command("pack", *TINY, "--cfg", "job")
    assert shown.returncode == 0 and "patches_per_class: 3" in shown.stdout
    assert not outputs.exists()
    done = command("pack", *TINY, "data.seed=0,1", "--multirun")
    assert done.returncode == 0, done.stderr
    assert list(Path.cwd().iterdir()) == [outputs]
    assert sorted(p.name for p in outputs.iterdir()) in (["pack"], ["pack", "scenes"])
    artifacts = sorted(p for p in (outputs / "pack").iterdir() if p.is_dir() and not p.is_symlink())
    specs = [json.loads((p / "config.json").read_text()) for p in artifacts]
    assert sorted(spec["data"]["seed"] for spec in specs) == [0, 1]
    for path, spec in zip(artifacts, specs, strict=True):  # the command line of the job, not of the sweep
        argv = json.loads((path / "provenance.json").read_text())["argv"][1:]
        assert f"data.seed={spec['data']['seed']}" in argv
        assert not any(arg.startswith(("hydra", "--multirun")) for arg in argv)


def test_yaml_of_the_user_need_not_spell_out_every_key(command: Command, outputs: Path) -> None:
    own = Path("my conf/data")
    own.mkdir(parents=True)
    (own / "few.yaml").write_text("name: scenes\npatches_per_class: 2\n")
    line = ("--config-dir", "my conf", "data=few", "progress=false")
    done = command("pack", *line, "data.seed=5")
    assert done.returncode == 0, done.stderr
    (artifact,) = (p for p in (outputs / "pack").iterdir() if p.is_dir() and not p.is_symlink())
    data = json.loads((artifact / "config.json").read_text())["data"]
    assert (data["patches_per_class"], data["seed"]) == (2, 5)
    wrong = command("pack", *line, "data.sed=5")
    assert (wrong.returncode, "did you mean 'data.seed'?" in wrong.stderr) == (2, True)
    wrong = command("pack", "--config-dir", "my conf", "data=fwe")
    assert (wrong.returncode, "did you mean 'few'?" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("absolute", [False, True])
def test_outputs_may_have_any_name(command: Command, outputs: Path, absolute: bool) -> None:
    folder = Path("my runs (2)")
    done = command("pack", *TINY, f"outputs={folder.resolve() if absolute else folder}")
    assert done.returncode == 0, done.stderr
    assert (folder / "pack" / "latest" / "artifact.json").is_file()


def test_an_outputs_folder_that_is_a_file_is_one_message(command: Command, outputs: Path) -> None:
    outputs.write_text("")
    done = command("pack", *TINY)
    assert done.returncode == 2
    assert "error: " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error, status, text",
    [
        (PermissionError(13, "Permission denied", "outputs/pack"), 2, "error: outputs/pack: Permission denied. Choose"),
        (OSError(28, "No space left on device", "x.bin"), 2, "error: x.bin: No space left on device. Free some space"),
        (ConfigError("a: b"), 2, "error: a: b"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on"),
    ],
)
def test_what_the_user_can_mend_is_one_message(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, config.messages():
        raise error
    assert end.value.code == status
    assert capsys.readouterr().err.startswith(text)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), FileNotFoundError(2, "gone", "x")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), config.messages():
        raise error


def test_control_c_ends_with_a_message_and_a_partial(outputs: Path) -> None:
    line = [sys.executable, "-m", "ssl_sat.pack", "data=scenes", "data.patches_per_class=3000", "progress=false"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    deadline = time.monotonic() + 60
    while not list(outputs.glob("pack/*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in errors and "Traceback" not in errors
    assert list(outputs.glob("pack/*/artifact.json")) == []
