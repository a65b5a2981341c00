"""Fixtures of all tests: two torch threads, a folder for outputs, the real data where it is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & from a script: commands would inherit deafness
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is imported; subprocesses inherit it
os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outputs folder inside a fresh working directory whose name has a space."""
    work = tmp_path / "a study"
    work.mkdir()
    monkeypatch.chdir(work)
    return work / "outputs"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data: env SSL_SAT_REAL_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("SSL_SAT_REAL_DATA") or _ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SSL_SAT_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def unzipped(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`unzipped("UCMerced_LandUse_sample.zip")`: the folder of its contents, unpacked once a session."""
    done: dict[str, Path] = {}

    def unzip(name: str) -> Path:
        if not (real_data / name).is_file():
            pytest.skip(f"no {name} in {real_data}")
        if name not in done:
            done[name] = tmp_path_factory.mktemp("real")
            with zipfile.ZipFile(real_data / name) as archive:
                archive.extractall(done[name])
        return done[name]

    return unzip


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command() -> Command:
    """`command("pack", "data=scenes")`: run a command of the package in the working directory, output as text."""

    def run(name: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"ssl_sat.{name}", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})})

    return run
