"""The command: one small data set on loopback, the same command after every kind of interruption."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.archives import KINDS, write
from fakes.server import Reply, Server, serving

from ssl_sat import download
from ssl_sat.fetch.catalogue import DATASETS, Archive, DataSet, Limits, Remote
from ssl_sat.fetch.transfer import digests
from ssl_sat.spec import ConfigError, UserError

FILES = {f"Set/c{i % 3}/i{i}.bin": np.random.default_rng(i).bytes(2000) for i in range(40)}
LISTS = {"train.txt": b"a\nb\n", "val.txt": b"c\n"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def remote_of(name: str, content: bytes, address: str, folder: str = "") -> Remote:
    md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
    return Remote(name, (f"{address}/{name}",), len(content), md5, sha256, "this test", folder)


def publish(server: Server, folder: Path, kind: str = ".zip", files: dict[str, bytes] = FILES) -> DataSet:
    """Make an archive and lists, serve them, and return their entry of the catalogue."""
    content = write(folder / f"set{kind}", files).read_bytes()
    server.put(f"set{kind}", content)
    for name, text in LISTS.items():
        server.put(name, text)
    size = sum(map(len, files.values()))
    archive = Archive(remote_of(f"set{kind}", content, server.address), "Set", len(files), size, size,
                      Limits(len(files) + 10, size + 10, 1000.0))  # fmt: skip
    lists = tuple(remote_of(name, text, server.address, "lists") for name, text in LISTS.items())
    return DataSet(archive, lists, len(files), "MIT", server.address)


@pytest.fixture
def tiny(server, tmp_path, monkeypatch) -> DataSet:
    data = publish(server, tmp_path)
    monkeypatch.setitem(DATASETS, "tiny", data)
    return data


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(to: Path, *options: str) -> str:
    said: list[str] = []
    download.run(download.parse(["tiny", f"to={to}", "pause_s=0", "progress=false", *options], {}), said.append)
    return "\n".join(said)


@pytest.mark.parametrize("kind", KINDS)
def test_fetched_checked_unpacked_and_then_never_again(server, tmp_path, monkeypatch, kind):
    monkeypatch.setitem(DATASETS, "tiny", publish(server, tmp_path, kind))
    to = tmp_path / "to"
    text = run(to)
    lists = {f"lists/{name}": content for name, content in LISTS.items()}
    archive = {f"set{kind}": (tmp_path / f"set{kind}").read_bytes()}
    assert tree(to) == {**FILES, **lists, **archive, ".tiny.lock": b""}
    assert f"pack it:  python -m ssl_sat.pack data=tiny data.root={to}/Set" in text
    assert "md5 and sha256 as published" in text
    requests = len(server.seen)
    assert requests == 3
    assert "unpacked already" in run(to) and len(server.seen) == requests


def test_lists_alone_and_what_is_there_is_left(server, tmp_path, tiny):
    to = tmp_path / "to"
    (to / "lists").mkdir(parents=True)
    (to / "lists" / "val.txt").write_bytes(b"mine\n")
    text = run(to, "only=lists")
    assert tree(to) == {"lists/train.txt": LISTS["train.txt"], "lists/val.txt": b"mine\n", ".tiny.lock": b""}
    assert "val.txt" in text and "not as published, and left as it is: 5 bytes, published are 2" in text
    assert [seen.path for seen in server.seen] == ["/train.txt"]


def test_an_archive_that_was_put_there_is_checked_and_used(server, tmp_path, tiny):
    to = tmp_path / "to"
    to.mkdir()
    shutil.copy(tmp_path / "set.zip", to)
    assert "there already, its checksums are right" in run(to)
    assert "/set.zip" not in [seen.path for seen in server.seen]
    shutil.rmtree(to / "Set")
    (to / "set.zip").write_bytes(b"half")
    assert "set.zip: 4 bytes, published are" in run(to, "keep=false")
    assert (to / "set.zip.wrong").read_bytes() == b"half" and not (to / "set.zip").exists()
    assert {name: content for name, content in tree(to).items() if name.startswith("Set/")} == FILES


def test_room_is_checked_before_anything_is_fetched_to_the_byte(server, tmp_path, tiny, monkeypatch):
    needed = sum(remote.size for remote in tiny.remotes) + tiny.archive.on_disk
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(UserError, match=r"are needed there \(archive and unpacked files\)"):
        run(tmp_path / "to")
    assert not server.seen
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    run(tmp_path / "to")


def test_what_has_arrived_is_not_counted_again(server, tmp_path, tiny, monkeypatch):
    server.script["/set.zip"] = [Reply(send=5000)]
    with pytest.raises(UserError):
        run(tmp_path / "to", "attempts=1")
    usage = shutil.disk_usage(tmp_path)
    needed = tiny.archive.remote.size - 5000 + tiny.archive.on_disk
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    run(tmp_path / "to")
    assert server.seen[-1].range == "bytes=5000-"


def test_a_file_system_without_room_for_so_many_files(server, tmp_path, tiny, monkeypatch):
    facts = os.statvfs(tmp_path)
    few = os.statvfs_result([*facts[:5], 1000, 1000, len(FILES) + 2, *facts[8:10], facts.f_fsid])
    monkeypatch.setattr(os, "statvfs", lambda path: few)
    with pytest.raises(UserError, match=r"43 files are needed there, its file system has room for 42 more"):
        run(tmp_path / "to")


def test_the_mirror_of_the_environment_and_of_the_command(server, tmp_path, tiny):
    for name in ("set.zip", *LISTS):
        server.put(f"copy/{name}", server.files[f"/{name}"])
    spec = download.parse(["tiny", f"to={tmp_path}/to", "progress=false"], {"SSL_SAT_MIRROR": f"{server.address}/copy"})
    download.run(spec, lambda text: None)
    assert {seen.path for seen in server.seen} == {"/copy/set.zip", "/copy/train.txt", "/copy/val.txt"}
    assert download.parse(["tiny", "mirror=https://a"], {"SSL_SAT_MIRROR": "https://b"}).mirror == "https://a"


def test_dry_fetches_nothing(server, tmp_path, tiny):
    assert "nothing was fetched" in run(tmp_path / "to", "dry=true")
    assert not server.seen and not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a data set"),
        (["eurosat_rbg"], "no data set 'eurosat_rbg' .*did you mean 'eurosat_rgb'"),
        (["eurosat_rgb", "too=x"], "unknown key 'too'; did you mean 'to'"),
        (["eurosat_rgb", "ucmerced"], "'ucmerced': one data set at a time"),
        (["eurosat_rgb", "only=list"], "only: .*did you mean 'lists'"),
        (["eurosat_rgb", "mirror=ftp://x"], "begins with http"),
        (["eurosat_rgb", "attempts=0"], "attempts"),
    ],
)
def test_mistakes_are_told_before_anything_happens(arguments, message):
    with pytest.raises(ConfigError, match=message):
        download.parse(arguments, {})


DRIVER = """
import sys
from ssl_sat import download
from ssl_sat.fetch import unpack
from ssl_sat.fetch.catalogue import *
unpack._SAVE_S = 0.05
DATASETS["tiny"] = {data!r}
sys.argv[1:] = ["tiny", "to={to}", "pause_s=0.01", "progress=false"]
raise SystemExit(download.main())
"""


def start(data: DataSet, to: Path, limit: int | None = None) -> subprocess.Popen[str]:
    def little_room() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = DRIVER.format(data=data, to=to)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, preexec_fn=little_room)


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    for _ in range(3000):
        if reached():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_in_the_middle_of_the_transfer(server, tmp_path):
    files = {"Set/a": np.random.default_rng(0).bytes(4_000_000)}
    data = publish(server, tmp_path, files=files)
    part = tmp_path / "to" / "set.zip.part"
    server.pace = (100_000, 0.05)
    kill_when(start(data, tmp_path / "to"), lambda: part.exists() and part.stat().st_size > 500_000)
    have = part.stat().st_size
    server.pace = None
    out, err = start(data, tmp_path / "to").communicate()
    assert "pack it:" in out, err
    assert server.seen[-1].range == f"bytes={have}-"
    assert (tmp_path / "to/Set/a").read_bytes() == files["Set/a"]


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_killed_in_the_middle_of_unpacking(server, tmp_path, kind):
    files = {f"Set/c{i % 7}/i{i}": i.to_bytes(4, "big") * 50 for i in range(20_000)}
    data = publish(server, tmp_path, kind, files)
    partial, note = tmp_path / "to" / "Set.partial", tmp_path / "to" / "Set.partial.json"
    kill_when(start(data, tmp_path / "to"), lambda: note.exists() and '"entries": 0' not in note.read_text())
    assert partial.is_dir() and not (tmp_path / "to" / "Set").exists()
    requests = len(server.seen)
    out, err = start(data, tmp_path / "to").communicate()
    assert "pack it:" in out, err
    assert len(server.seen) == requests  # the archive is there, checked and used
    assert {f"Set/{name}": content for name, content in tree(tmp_path / "to" / "Set").items()} == files
    assert not partial.exists() and not note.exists()


def test_a_disk_that_is_full_after_all(server, tmp_path):
    data = publish(server, tmp_path)
    process = start(data, tmp_path / "to", limit=30_000)
    _, err = process.communicate()
    assert process.returncode == 2 and "Traceback" not in err
    assert "Free some space. What has arrived stays; the same command goes on from there." in err
    assert (tmp_path / "to" / "set.zip.part").stat().st_size == 30_000
    out, err = start(data, tmp_path / "to").communicate()
    assert "pack it:" in out, err
    assert server.seen[-1].range == "bytes=30000-"


def test_help_names_every_data_set_and_option_and_loads_no_torch(tmp_path):
    code = "import sys; sys.argv=['d','--help']; from ssl_sat import download; download.main(); " \
           "assert not {'torch', 'hydra', 'requests'} & set(sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in DATASETS)
    assert all(f"  {name}=" in done.stdout for name in set(download.DownloadSpec.model_fields) - {"name"})


@pytest.mark.parametrize("name", DATASETS)
def test_the_catalogue_is_in_order(name):
    data = DATASETS[name]
    assert len({remote.name for remote in data.remotes}) == len(data.remotes)
    for remote in data.remotes:
        assert all(address.endswith(f"/{remote.name}") and address.startswith("http") for address in remote.addresses)
        assert len(remote.md5) == 32 and (remote.sha256 is None or len(remote.sha256) == 64)
        assert remote.origin and remote.size > 0
    archive = data.archive
    assert archive.size < archive.limits.size < 1.3 * archive.size and archive.files < archive.limits.entries
    assert archive.size < archive.limits.ratio * archive.remote.size / 2
    assert archive.files >= data.patches and archive.on_disk >= archive.size


def test_checksums_are_those_of_the_real_lists_and_tables(real_data):
    there = {path.name: path for folder in ("eurosat_splits", "bigearthnet_metadata")
             for path in (real_data / folder).iterdir()}  # fmt: skip
    lists = {remote.name: remote for data in DATASETS.values() for remote in data.lists}
    assert set(lists) == set(there) and len(lists) == 13
    for name, remote in lists.items():
        assert remote.size == there[name].stat().st_size
        assert remote.checksums == digests(there[name], remote.checksums)
