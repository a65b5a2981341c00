"""Packing over processes and after kills: the same bytes whatever happened, and nothing finished is read again.

A patch whose file is a named pipe stops whoever reads it, so that a kill hits at a known moment.
"""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import folders

from ssl_sat.data import SOURCES, pack_file, pack_parts
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import write_pack
from ssl_sat.data.sources.bigearthnet import GROUPS
from ssl_sat.data.sources.tiff import write_strips
from ssl_sat.spec import UserError

FILES = ("patches.bin", "index.parquet", "manifest.json", "stats.json", "quarantine.csv")
PER_PART, PATCHES = 5, 43
NAMES = [f"S2A_MSIL2A_20170613T101031_{number // 10}_{number % 10}" for number in range(PATCHES)]
BAD = 18  # has a band less; in the third part


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_parts, "PART_PATCHES", PER_PART)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw patches (`data`) and the pack that one process makes of them without a break (`pack`)."""
    folder = tmp_path_factory.mktemp("whole")
    for number, name in enumerate(NAMES):
        (folder / "data" / name).mkdir(parents=True)
        for group in GROUPS:
            for band in group.bands:
                pixels = np.full((group.height, group.width), 100 + number, np.uint16)
                pixels.ravel()[:: 7 + number] = sum(map(ord, band))
                write_strips(folder / "data" / name / f"{name}_{band}.tif", pixels, 32633, 6e5, 5e6, 10.0)
        labels = {"labels": [["Pastures", "Sea and ocean"][number % 2]], "acquisition_date": "2017-06-13 10:10:31"}
        (folder / "data" / name / f"{name}_labels_metadata.json").write_text(json.dumps(labels))
    (folder / "data" / NAMES[BAD] / f"{NAMES[BAD]}_B11.tif").unlink()
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(pack_parts, "PART_PATCHES", PER_PART)
    write_pack(spec_of(folder / "data"), folder / "pack")
    monkeypatch.undo()
    return folder


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy of the raw patches, to be spoilt."""
    return Path(shutil.copytree(whole / "data", tmp_path / "data"))


def spec_of(root: Path, **config: Any) -> Any:
    return SOURCES.parse({"name": "bigearthnet_v1", "root": str(root), "split": "fractions", **config})


def order(whole: Path) -> list[str]:
    """Names of the patches in the order of the pack, the quarantined one included where it would be."""
    source = SOURCES.build(spec_of(whole / "data"))
    rank = {"train": 0, "val": 1, "test": 2}
    return [ref.id for ref in sorted(source.listing().refs, key=lambda ref: (rank[ref.split], ref.id))]


def same(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert not (one / "parts").exists()


def spoil(data: Path, names: list[str]) -> None:
    """Take the pixels of patches away: whoever reads them again finds nothing."""
    for name in names:
        for path in (data / name).glob("*.tif"):
            path.unlink()


def block(data: Path, name: str) -> Callable[[], None]:
    """Let the reader of a patch hang; return what mends it."""
    path = data / name / f"{name}_B02.tif"
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)

    def mend() -> None:
        path.unlink()
        path.write_bytes(content)

    return mend


@pytest.fixture
def started() -> Iterator[Callable[[list[str]], "subprocess.Popen[str]"]]:
    """Start a command in a session of its own; it is killed at the end of the test if it still runs."""
    processes: list[subprocess.Popen[str]] = []

    def start(line: list[str]) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(line, text=True, start_new_session=True, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


class _Stop(Exception):
    pass


def stop_after(patches: int) -> Callable[[int, int, int], None]:
    def progress(done: int, total: int, size: int) -> None:
        if done >= patches:
            raise _Stop

    return progress


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Living descendants of a process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    parent_of = {
        int(line.split()[0]): int(line.split()[1]) for line in listed.splitlines() if "Z" not in line.split()[2]
    }
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parent_of.items() if parent in new]
        found += new
    return found


def command(data: Path, out: Path, *more: str, before: str = "") -> list[str]:
    """`python -m ssl_sat.pack` with small parts."""
    code = (
        f"import ssl_sat.data.pack_parts as parts; parts.PART_PATCHES = {PER_PART}\n{before}\n"
        "from ssl_sat.config import main; from ssl_sat.pack import PACK; main(PACK)"
    )
    fixed = ("data=bigearthnet_v1", f"data.root='{data}'", "data.split=fractions", f"outputs='{out}'")
    return [sys.executable, "-c", code, *fixed, *more]


def partial(out: Path) -> Path | None:
    return next((path for path in (out / "pack").glob("*.partial")), None) if (out / "pack").is_dir() else None


def packed(out: Path) -> Path:
    (path,) = (path for path in (out / "pack").glob("*-????????") if not path.is_symlink())
    return path


def appended(out: Path) -> int:
    """Bytes in patches.bin of the partial."""
    folder = partial(out)
    return (folder / "patches.bin").stat().st_size if folder and (folder / "patches.bin").exists() else 0


def _is_worker(pid: int) -> bool:
    text = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    return "multiprocessing" in text and "resource_tracker" not in text


@contextmanager
def kill_a_worker(when: Callable[[], bool]) -> Iterator[None]:
    """Kill one of this process's workers as soon as `when` is true (or after a while, so that nothing hangs)."""

    def kill() -> None:
        try:
            wait_until(when, "the moment to kill")
        finally:
            os.kill(next(pid for pid in children(os.getpid()) if _is_worker(pid)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


def test_any_number_of_processes_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    spec = spec_of(whole / "data")
    seen: list[tuple[int, int]] = []
    one = write_pack(spec, tmp_path / "three", lambda done, total, size: seen.append((done, total)), workers=3)
    same(tmp_path / "three", whole / "pack")
    assert seen[0] == (0, PATCHES) and seen[-1] == (PATCHES, PATCHES) and seen == sorted(seen)
    assert one["quarantined"] == 1 and one["n"] == PATCHES - 1
    assert Pack.open(tmp_path / "three").ids == [name for name in order(whole) if name != NAMES[BAD]]


def test_float_data_and_many_unreadable_patches_too(tmp_path: Path) -> None:
    folders.write_npy(tmp_path / "data", 40, dtype="float32")
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 23, 39):  # two parts have none
        (tmp_path / "data" / f"test_{number}.npy").write_bytes(b"")
    spec = SOURCES.parse({"name": "npy", "root": str(tmp_path / "data"), "max_quarantined": 0.5})
    one = write_pack(spec, tmp_path / "one")
    assert one == write_pack(spec, tmp_path / "four", workers=4)
    same(tmp_path / "four", tmp_path / "one")
    assert one["quarantined"] == 13


def test_an_error_of_a_source_arrives_from_the_process_that_met_it(tmp_path: Path) -> None:
    folders.write_images(tmp_path / "data")
    config = {"name": "imagefolder", "root": str(tmp_path / "data"), "size_px": None}
    path = sorted((tmp_path / "data").rglob("*.png"))[-1]
    from PIL import Image

    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(UserError, match="images of several sizes"):
        write_pack(SOURCES.parse(config), tmp_path / "pack", workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigkill_and_the_same_command_again(whole: Path, data: Path, tmp_path: Path, workers: int,
                                               started: Callable[..., Any]) -> None:  # fmt: skip
    names, out = order(whole), tmp_path / "outputs"
    hanging = 3 * PER_PART + 2
    mend = block(data, names[hanging])
    line = command(data, out, f"workers={workers}")
    process = started(line)
    bad_before = sum(name == NAMES[BAD] for name in names[: 3 * PER_PART])
    ready = (3 * PER_PART - bad_before) * 160_000

    def stands() -> bool:
        folder = partial(out)
        notes = 0 if folder is None else len(list((folder / "parts").glob("*.npz")))
        assert process.poll() is None, process.communicate()
        return appended(out) >= ready and notes >= (3 if workers == 1 else 4)

    wait_until(stands, "three parts")
    workers_of = children(process.pid)
    assert len(workers_of) >= (workers if workers > 1 else 0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers_of), "orphans end")
    mend()
    last = partial(out)
    assert last is not None
    finished = {int(path.stem) for path in (last / "parts").glob("*.npz")}
    assert finished >= {0, 1, 2} and 3 not in finished
    spoil(data, [name for at, name in enumerate(names) if at // PER_PART in finished])
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    again = sum(min(PER_PART, PATCHES - part * PER_PART) for part in finished)
    assert f"{again} of {PATCHES} patches were read before" in done.stdout
    same(packed(out), whole / "pack")


def test_interrupt_ends_everybody_without_a_traceback(whole: Path, data: Path, tmp_path: Path,
                                                      started: Callable[..., Any]) -> None:  # fmt: skip
    out = tmp_path / "outputs"
    mend = block(data, order(whole)[2 * PER_PART])
    line = command(data, out, "workers=2")
    process = started(line)
    wait_until(lambda: appended(out) > 0, "a part")
    workers_of = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers_of), "workers end")
    mend()
    assert subprocess.run(line, capture_output=True).returncode == 0
    same(packed(out), whole / "pack")


def test_a_worker_that_is_killed_is_one_clear_error(whole: Path, data: Path, tmp_path: Path) -> None:
    mend = block(data, order(whole)[3 * PER_PART])

    three = tmp_path / "pack/parts/00002.npz"
    with kill_a_worker(three.exists), pytest.raises(UserError, match=r"\(SIGKILL\).*memory.*the same command goes on"):
        write_pack(spec_of(data), tmp_path / "pack", workers=2)
    mend()
    write_pack(spec_of(data), tmp_path / "pack", workers=2)
    same(tmp_path / "pack", whole / "pack")


@pytest.fixture
def stopped(whole: Path, data: Path, tmp_path: Path) -> Path:
    """A partial of five parts."""
    with pytest.raises(_Stop):
        write_pack(spec_of(data), tmp_path / "pack", stop_after(5 * PER_PART + 1))
    assert len(list((tmp_path / "pack/parts").glob("*.npz"))) == 5
    return tmp_path / "pack"


def test_what_is_finished_is_not_read_again(whole: Path, data: Path, stopped: Path) -> None:
    spoil(data, order(whole)[: 5 * PER_PART])
    seen: list[int] = []
    write_pack(spec_of(data), stopped, lambda done, total, size: seen.append(done), workers=2)
    assert seen[0] == 5 * PER_PART
    same(stopped, whole / "pack")


@pytest.mark.parametrize("harm", ["flip", "cut", "note", "no note", "longer"])
def test_damage_is_seen_and_read_again(whole: Path, data: Path, stopped: Path, harm: str) -> None:
    path, note = stopped / "patches.bin", stopped / "parts/00002.npz"
    content = bytearray(path.read_bytes())
    content[2 * PER_PART * 160_000 + 123_456] ^= 1
    if harm == "flip":
        path.write_bytes(content)
    elif harm == "cut":
        os.truncate(path, 3 * PER_PART * 160_000 - 170_000)
    elif harm == "note":
        note.write_bytes(note.read_bytes()[:-40] + bytes(40))
    elif harm == "no note":
        note.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"of a part that was not finished")
    spoil(data, order(whole)[: (5 if harm == "longer" else 2) * PER_PART])
    write_pack(spec_of(data), stopped, workers=2)
    same(stopped, whole / "pack")


def test_records_that_wait_beside_are_checked_too(whole: Path, data: Path, tmp_path: Path) -> None:
    mend, out, names = block(data, order(whole)[0]), tmp_path / "pack", order(whole)
    folder = out / "parts"
    with kill_a_worker(lambda: len(list(folder.glob("*.npz"))) >= 2), pytest.raises(UserError, match="signal 9"):
        write_pack(spec_of(data), out, workers=2)
    mend()
    harmed, sound = (int(path.stem) for path in sorted(folder.glob("*.npz"))[:2])
    path = folder / f"{harmed:05d}.bin"
    content = bytearray(path.read_bytes())
    content[99] ^= 4
    path.write_bytes(content)
    (folder / "00004.bin.123.tmp").write_bytes(b"left by the dead")
    spoil(data, names[sound * PER_PART : (sound + 1) * PER_PART])
    write_pack(spec_of(data), out)
    same(out, whole / "pack")


def test_a_patch_mended_meanwhile_is_taken_in(whole: Path, data: Path, stopped: Path, tmp_path: Path) -> None:
    at = order(whole).index(NAMES[BAD])
    assert at < 5 * PER_PART, "the bad patch is in a finished part"
    folder = data / NAMES[BAD]
    shutil.copyfile(folder / f"{NAMES[BAD]}_B12.tif", folder / f"{NAMES[BAD]}_B11.tif")
    fresh = write_pack(spec_of(data), tmp_path / "fresh")
    spoil(data, order(whole)[: at // PER_PART * PER_PART])
    assert write_pack(spec_of(data), stopped) == fresh and fresh["quarantined"] == 0
    same(stopped, tmp_path / "fresh")


@pytest.mark.parametrize("change", ["label", "patch", "spec"])
def test_another_listing_starts_afresh(whole: Path, data: Path, stopped: Path, tmp_path: Path, change: str) -> None:
    first, config = order(whole)[0], {}
    if change == "label":
        path = data / first / f"{first}_labels_metadata.json"
        path.write_text(path.read_text().replace("Pastures", "Beaches").replace("Sea and", "Sea or"))
    elif change == "patch":
        shutil.rmtree(data / first)
    else:
        config = {"split_seed": 1}
    spec, seen = spec_of(data, **config), []
    want = write_pack(spec, tmp_path / "fresh")
    assert write_pack(spec, stopped, lambda done, total, size: seen.append(done)) == want
    assert seen[0] == 0
    same(stopped, tmp_path / "fresh")


def test_a_pack_that_was_killed_while_published_is_not_made_again(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole / "pack", tmp_path / "pack"))
    data = Path(shutil.copytree(whole / "data", tmp_path / "data"))
    (out / ".parts.removed").mkdir()
    spoil(data, NAMES)
    (data / NAMES[0] / f"{NAMES[0]}_B02.tif").touch()
    metrics = write_pack(spec_of(data), out)
    assert metrics == write_pack(spec_of(whole / "data"), tmp_path / "other")
    assert not (out / ".parts.removed").exists()
    same(out, whole / "pack")
    content = bytearray((out / "patches.bin").read_bytes())
    content[5] ^= 1
    (out / "patches.bin").write_bytes(content)
    assert write_pack(spec_of(whole / "data"), out) == metrics  # damaged: made again, from files that are there
    same(out, whole / "pack")


def test_room_is_checked_first_and_counts_what_is_there(
    whole: Path, data: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = (stopped / "patches.bin").stat().st_size
    usage = shutil.disk_usage(stopped)
    monkeypatch.setattr(pack_file.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(UserError, match=r"needs 0\.0 GB beside the 0\.0 GB that are there, 0\.0 GB are free"):
        write_pack(spec_of(data), stopped)
    left = (PATCHES - 5 * PER_PART) * 160_000
    monkeypatch.setattr(pack_file.shutil, "disk_usage", lambda path: usage._replace(free=left + 12 * 8192 * 12 * 5))
    with pytest.raises(UserError, match="Make room"):  # parts in flight of three processes
        write_pack(spec_of(data), stopped, workers=3)
    assert (stopped / "patches.bin").stat().st_size <= there
    write_pack(spec_of(data), stopped)
    same(stopped, whole / "pack")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_is_one_clear_error(whole: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "outputs"
    limit = 30 * 160_000 + 1000 if workers == 1 else 4 * 160_000
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY}))"
    full = subprocess.run(
        command(whole / "data", out, f"workers={workers}", before=before), capture_output=True, text=True
    )
    assert full.returncode == 2 and "Traceback" not in full.stderr
    assert "File too large after" in full.stderr and "the same command goes on from there" in full.stderr
    done = subprocess.run(command(whole / "data", out, f"workers={workers}"), capture_output=True, text=True)
    assert done.returncode == 0 and (workers == 2 or "were read before" in done.stdout)
    same(packed(out), whole / "pack")


@pytest.mark.parametrize("config", [{"name": "bigearthnet_v1"}, {"name": "scenes", "patches_per_class": 1}])
def test_sources_travel_without_their_listing(whole: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    root = str(whole / "data" if config["name"] == "bigearthnet_v1" else tmp_path / "scenes")
    source = SOURCES.build(SOURCES.parse({"split": "fractions", "root": root, **config}))
    refs, facts = source.listing().refs, source.facts
    sent = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 4000 and "found" not in vars(sent) and sent.facts == facts
    for got, want in zip(sent.read(refs[0]), source.read(refs[0]), strict=True):
        np.testing.assert_array_equal(got, want)
    assert "found" not in vars(sent)
