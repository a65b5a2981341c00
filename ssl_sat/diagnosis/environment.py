"""The machine and what is installed on it: versions, device and driver, cores, memory, the folder of the outputs."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ssl_sat import __version__
from ssl_sat.diagnosis.finding import Finding, State, gigabytes

_INSTALL = "pip install -c constraints.txt -e .   (in the checkout; or: pip install --upgrade ssl-sat)"
_LITTLE_DISK, _LITTLE_MEMORY = 2e9, 4e9
_DRIVER = Path("/proc/driver/nvidia/version")


def environment(outputs: str) -> Iterator[Finding]:
    """Everything that does not depend on the data."""
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()}, ssl_sat {__version__}")
    yield packages(requirements())
    yield from devices()
    yield memory()
    yield from outputs_folder(Path(os.path.expanduser(outputs)))
    yield tensorboard()


def requirements() -> list[str]:
    """What the package declares it needs, from its metadata or else from pyproject.toml beside it."""
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if pyproject.is_file() and 'name = "ssl-sat"' in pyproject.read_text():
        return tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    try:
        declared = importlib.metadata.requires("ssl-sat") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [line for line in declared if "extra ==" not in line]


def packages(needed: list[str]) -> Finding:
    """Whether every requirement `name>=version` is installed and new enough."""
    bad = []
    for line in needed:
        name, _, least = re.sub(r"[\s;].*", "", line).partition(">=")
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{name} is missing")
            continue
        if least and _numbers(version) < _numbers(least):
            bad.append(f"{name} {version} is older than {least}")
    if bad:
        return Finding("WRONG", "packages", "; ".join(bad), _INSTALL)
    return Finding("ok", "packages", f"all {len(needed)} that are needed")


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def devices() -> Iterator[Finding]:
    """Torch's build and what it can compute on: one small product on every GPU, since a listed one may not work."""
    import torch

    from ssl_sat.data.pack_workers import usable_cores

    build = f"torch {torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU build'})"
    cores, threads = usable_cores(), torch.get_num_threads()
    for index in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        yield _gpu(index, build)
    if not torch.cuda.is_available():
        yield _no_gpu(build)
    several = "" if threads <= cores else f"; more threads than cores slow each other (OMP_NUM_THREADS={cores})"
    yield Finding(
        "ok" if threads <= cores else "note", "cores", f"{cores} usable, torch uses {threads} threads{several}"
    )


def _gpu(index: int, build: str) -> Finding:
    import torch

    name = torch.cuda.get_device_name(index)
    try:
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        sound = float((ones @ ones).sum()) == 64.0**3
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        then = "install a torch that fits the driver and the GPU (pytorch.org/get-started), or free the GPU"
        return Finding("WRONG", f"GPU {index}", f"{name}, {build}: {str(error).splitlines()[0]}", then)
    if not sound:
        return Finding("WRONG", f"GPU {index}", f"{name} computes a wrong product", "do not use it: it is defective")
    busy = "" if free > total / 2 else "; another process holds the rest"
    state: State = "note" if busy else "ok"
    return Finding(state, f"GPU {index}", f"{name}, {build}, {gigabytes(free)} of {gigabytes(total)} free{busy}")


def _no_gpu(build: str) -> Finding:
    import torch

    if torch.backends.mps.is_available():
        return Finding("ok", "device", f"Apple GPU (MPS), {build}")
    if not _DRIVER.exists() and shutil.which("nvidia-smi") is None:
        then = "small models and tests run; pretraining on a large set takes days without a GPU"
        return Finding("note", "device", f"CPU only, {build}", then)
    if torch.version.cuda is None:
        return Finding("WRONG", "device", f"there is an NVIDIA driver, but {build} cannot use it",
                       "install torch's CUDA build (pytorch.org/get-started)")  # fmt: skip
    driver = _DRIVER.read_text().splitlines()[0] if _DRIVER.exists() else "nvidia-smi is there"
    then = "update the driver, or install a torch for an older CUDA; CUDA_VISIBLE_DEVICES may also hide the GPUs"
    return Finding("WRONG", "device", f"{build} finds no GPU ({driver})", then)


def memory() -> Finding:
    """Free host memory, as a container or a batch system limits it."""
    from ssl_sat.data.residency import host_free

    free = host_free()
    if free < _LITTLE_MEMORY:
        return Finding("note", "memory", f"{gigabytes(free)} free", "close other programs, or ask for more")
    return Finding("ok", "memory", f"{gigabytes(free)} free")


def outputs_folder(folder: Path) -> Iterator[Finding]:
    """Room in the folder of the artifacts, and whether it can do what they need: locks, links, renames."""
    home = existing(folder)
    free = shutil.disk_usage(home).free
    state: State = "note" if free < _LITTLE_DISK else "ok"
    yield Finding(state, "disk", f"{gigabytes(free)} free for outputs ({folder})",
                  "free some space, or choose another disk with outputs=..." if state == "note" else "")  # fmt: skip
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=home) as probe:
            _use(Path(probe))
    except OSError as error:
        then = "choose another folder with outputs=..., or change its permissions"
        yield Finding("WRONG", "outputs", f"{home}: {error.strerror or error}", then)
        return
    yield Finding("ok", "outputs", f"{home} can be written to, and has locks and links")


def _use(probe: Path) -> None:
    with open(probe / "a", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(b"x")
        os.fsync(file.fileno())
    os.symlink("a", probe / "link")
    os.replace(probe / "a", probe / "b")


def existing(folder: Path) -> Path:
    """The folder itself or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(parent for parent in (folder, *folder.parents) if parent.is_dir())


def tensorboard() -> Finding:
    """Whether curves can be watched while a run goes on."""
    if importlib.util.find_spec("tensorboard") is None:
        return Finding("note", "tensorboard", "not installed: curves are in history.jsonl alone", _INSTALL)
    return Finding("ok", "tensorboard", "tensorboard --logdir <outputs> shows the curves of a run")
