"""A package with two small stages, found through its entry points, and a folder to run graphs in."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ssl_sat.graph import stages

_STAGES = """
import errno
import faulthandler
import os
import resource
import signal
import time
from pathlib import Path

from ssl_sat.spec import UserError, WeightsAbsent, runtime
from ssl_sat.stage import Stage, StageSpec

import fake_numbers


class SourceSpec(StageSpec):
    value: int = 1
    seed: int = 0
    rate: float = 0.1


class SumSpec(SourceSpec):
    left: str | None = runtime(None)
    right: str | None = runtime(None)
    strict: bool = False


def run(spec, inputs, out):
    name = f"{type(spec).__name__}-{spec.value}-{spec.seed}"
    with open("runs.txt", "a") as file:
        seen = [os.environ.get(key, "own") for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RANK")]
        file.write(" ".join([name, *(value or "none" for value in seen)]) + "\\n")
    while Path(f"hold-{name}").exists():
        time.sleep(0.02)
    if Path(f"fail-{name}").exists():
        raise UserError(f"{name} was told to fail")
    if Path(f"absent-{name}").exists():
        raise WeightsAbsent(f"weights absent: {name} has no hub")
    _end_as_told(name)
    if Path(f"crash-{name}").exists():
        raise ZeroDivisionError("one by nought")
    total = fake_numbers.add([spec.value, *(item.metrics["total"] for item in inputs.values())])
    (out / "result.txt").write_text(str(total))
    print(f"{name} makes {total}", flush=True)
    return {"total": total, "test_accuracy": 0.5 + 0.1 * spec.seed, "name": name}


def _end_as_told(name):
    # once each: what comes from outside, and a crash of the code's own
    for path in Path().glob(f"once-*-{name}"):
        path.unlink()
        how = path.name.split("-")[1]
        if how == "io":
            raise OSError(errno.ESTALE, "Stale file handle")
        if how == "stop":
            raise SystemExit(143)
        faulthandler.disable()  # or a planted crash leaves pages of traces
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), getattr(signal, how))


def _inputs(spec, lookup):
    given = {"left": spec.left, "right": spec.right}
    return {slot: lookup.artifact("fake_source" if slot == "left" else "fake_sum", path)
            for slot, path in given.items() if path}


CODE = ("fake_numbers",)
SOURCE = Stage("fake_source", 1, SourceSpec, run, lambda s, i: f"v{s.value}-s{s.seed}", code=CODE,
               synthetic=lambda s: s.value == 7)
TRAIN = Stage("fake_train", 1, SourceSpec, run, lambda s, i: f"v{s.value}-s{s.seed}", code=CODE, distributed=True)
SUM = Stage("fake_sum", 1, SumSpec, run, lambda s, i: f"v{s.value}-s{s.seed}", _inputs, code=CODE)
"""
_NUMBERS = "def add(values):\n    return sum(values)\n"
_ENTRY_POINTS = """[ssl_sat.stages]
fake_source = fake_stages:SOURCE
fake_sum = fake_stages:SUM
fake_train = fake_stages:TRAIN
"""

GRAPH = """
name: sums
question: What do the numbers add up to?
nodes:
  source:
    stage: fake_source
    overrides: [value=7]
  middle:
    stage: fake_sum
    needs: {left: source}
    foreach: {seed: [0, 1]}
  end:
    stage: fake_sum
    overrides: [value=3]
    needs: {right: middle}
"""


def write_package(folder: Path) -> Path:
    """Write the package of stages into a folder."""
    (folder / "fake_stages-1.0.dist-info").mkdir(parents=True)
    (folder / "fake_stages.py").write_text(_STAGES)
    (folder / "fake_numbers.py").write_text(_NUMBERS)
    (folder / "fake_stages-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fake-stages\nVersion: 1.0\n"
    )
    (folder / "fake_stages-1.0.dist-info" / "entry_points.txt").write_text(_ENTRY_POINTS)
    return folder


class Lab:
    """A folder with a graph in it, and the command to run it."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.folder, self.package = folder, package
        self.graph = folder / "mine.yaml"
        self.write(GRAPH)

    def write(self, text: str) -> Path:
        self.graph.write_text(textwrap.dedent(text))
        return self.graph

    def start(self, *overrides: str, env: dict[str, str] | None = None, graph: str = "mine.yaml") -> subprocess.Popen:
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(self.package), str(root)])
        own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "SSL_SAT_SLOTS": str(self.folder / "slots"), **(env or {})}
        left_out = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        env = {k: v for k, v in os.environ.items() if k not in left_out} | own
        return subprocess.Popen(
            [sys.executable, "-m", "ssl_sat.experiment", f"graph=./{graph}", *overrides],
            cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *overrides: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        process = self.start(*overrides, env=env)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    @property
    def runs(self) -> list[str]:
        """What ran, in order."""
        path = self.folder / "runs.txt"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, name: str, times: int = 1, seconds: float = 240.0) -> None:
        """Until the stage of this name has started so often."""
        end = time.monotonic() + seconds
        while self.runs.count(name) < times:
            assert time.monotonic() < end, f"{name} did not start: {self.runs}"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def fake_package(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def lab(tmp_path, fake_package, monkeypatch):
    """A laboratory whose stages this process knows too."""
    monkeypatch.syspath_prepend(str(fake_package))
    monkeypatch.chdir(tmp_path)
    stages._added.cache_clear()
    yield Lab(tmp_path, fake_package)
    stages._added.cache_clear()


@pytest.fixture
def own_lab(tmp_path):
    """One with a package of its own, which the test may edit; seen by its commands alone."""
    package = write_package(tmp_path / "package")
    (tmp_path / "work").mkdir()
    return Lab(tmp_path / "work", package)
