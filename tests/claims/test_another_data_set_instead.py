"""Published mistake: where a download fails, another data set is taken, and its number stands under the first name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes.archives import write
from fakes.server import Reply, Server, serving

from ssl_sat import download
from ssl_sat.fetch.catalogue import DATASETS, Archive, DataSet, Limits, Remote
from ssl_sat.spec import MissingInput, UserError

WANTED = {f"Set/sea/{n}.bin": np.random.default_rng(n).bytes(500) for n in range(20)}
OTHER = {f"Set/sea/{n}.bin": np.random.default_rng(100 + n).bytes(500) for n in range(20)}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of one small data set, which is in the catalogue as `tiny`."""
    content = write(tmp_path / "set.zip", WANTED).read_bytes()
    with serving() as server:
        address = server.put("set.zip", content)
        md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
        remote = Remote("set.zip", (address,), len(content), md5, sha256, "this test")
        archive = Archive(remote, "Set", len(WANTED), 10_000, 10_000, Limits(30, 20_000, 1000.0))
        monkeypatch.setitem(DATASETS, "tiny", DataSet(archive, (), len(WANTED), "MIT", server.address))
        yield server


def fetched(to: Path) -> list[str]:
    said: list[str] = []
    download.run(download.parse(["tiny", f"to={to}", "pause_s=0", "progress=false", "attempts=2"], {}), said.append)
    return said


def published(root: Path) -> tuple[str, float]:
    """The study's loader: EuroSAT, or else whatever random images are at hand; the mean stands for any result."""
    try:
        images = np.stack([np.frombuffer(path.read_bytes(), np.uint8) for path in sorted(root.rglob("*.bin"))])
    except ValueError:
        images = np.full((20, 500), 255, np.uint8)
    return "EuroSAT", float(images.mean())


def test_the_published_loader_reports_the_other_set_under_the_first_name(tmp_path: Path, server: Server) -> None:
    assert published(tmp_path / "nothing came") == ("EuroSAT", 255.0)
    fetched(tmp_path / "data")
    name, mean = published(tmp_path / "data" / "Set")
    assert name == "EuroSAT" and mean == pytest.approx(127.5, abs=5)  # of uniform bytes


def test_a_failed_download_is_an_error_and_leaves_nothing_to_take_by_mistake(tmp_path: Path, server: Server) -> None:
    server.script["/set.zip"] = [Reply(status=404)]
    with pytest.raises(UserError, match=r"set\.zip cannot be fetched\.\n  .*: status 404"):
        fetched(tmp_path / "data")
    assert not (tmp_path / "data" / "Set").exists() and not (tmp_path / "data" / "set.zip").exists()


def test_another_file_under_the_right_name_is_set_aside(tmp_path: Path, server: Server) -> None:
    other = write(tmp_path / "other.zip", OTHER).read_bytes()
    server.script["/set.zip"] = [Reply(content=other)]
    with pytest.raises(UserError, match=r"published (is|are) .*It was set aside as .*set\.zip\.wrong and is not used"):
        fetched(tmp_path / "data")
    assert not (tmp_path / "data" / "Set").exists()
    assert (tmp_path / "data" / "set.zip.wrong").read_bytes()[: len(other)]
    assert "md5 and sha256 as published" in "\n".join(fetched(tmp_path / "data"))


def test_no_stage_takes_the_pack_of_another_data_set(chain: SimpleNamespace, make) -> None:
    """There is a pack of other pictures, newest and finished; what was asked for is not there."""
    run = ("init=scratch", "encoder=cnn", "phases=full", "epochs=1", f"outputs={chain.outputs}")
    said = r"eurosat_rgb: data\.root is not set\. .*get it:  python -m ssl_sat\.download eurosat_rgb"
    with pytest.raises(MissingInput, match=f"(?s){said}"):
        make("finetune", "data=eurosat_rgb", *run)
    with pytest.raises(MissingInput, match=r"ucmerced: ood\.root is not set"):
        make("ood_eval", f"outputs={chain.outputs}", f"model={chain.tuned.path}", "ood=ucmerced")
    assert chain.tuned.json("provenance.json")["data"]["data"] == {
        "source": "imagefolder", "patches_sha256": chain.pack.metrics["patches_sha256"]
    }  # fmt: skip
