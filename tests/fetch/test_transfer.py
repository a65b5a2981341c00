"""Resumable transfer against a server on loopback that breaks off, lies, changes, hangs and serves wrong bytes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fakes.server import Reply, Server, serving

from ssl_sat.fetch.catalogue import Remote
from ssl_sat.fetch.transfer import Patience, fetch, part_of
from ssl_sat.spec import UserError

SIZE = 300_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
OTHER = np.random.default_rng(1).bytes(SIZE)
QUICK = Patience(connect_s=5, read_s=5, attempts=3, pause_s=0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@contextmanager
def unwatched(label):
    yield lambda done, total: None


def remote(*addresses: str, content: bytes = CONTENT) -> Remote:
    md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
    return Remote("file.bin", addresses, len(content), md5, sha256, "this test")


def bring(tmp_path: Path, *addresses: str, patience: Patience = QUICK, mirror: str | None = None) -> Path:
    fetch(remote(*addresses), tmp_path / "file.bin", mirror, patience, unwatched, lambda text: None)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file.bin"]  # no part, no note
    return tmp_path / "file.bin"


def test_whole_file_in_one_request(server, tmp_path):
    bring(tmp_path, server.put("file.bin", CONTENT))
    assert [(seen.status, seen.range, seen.sent) for seen in server.seen] == [(200, None, SIZE)]


def test_goes_on_from_where_it_broke_off_and_asks_no_byte_twice(server, tmp_path):
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(send=100_000), Reply(send=50_001)))
    assert [seen.range for seen in server.seen] == [None, "bytes=100000-", "bytes=150001-"]
    assert [seen.if_range for seen in server.seen] == [None, '"1"', '"1"']
    assert server.sent == SIZE


def test_another_process_goes_on_from_the_part_of_the_last(server, tmp_path):
    address = server.put("file.bin", CONTENT, Reply(send=123_456))
    with pytest.raises(UserError, match=r"123,456 bytes are kept in .*file.bin.part; the same command goes on"):
        bring(tmp_path, address, patience=dataclasses.replace(QUICK, attempts=1))
    bring(tmp_path, address)
    assert server.seen[1].range == "bytes=123456-" and server.seen[1].if_range == '"1"'
    assert server.sent == SIZE


def test_a_content_length_that_is_too_long_costs_nothing(server, tmp_path):
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(declare=1000)))
    assert server.sent == SIZE and len(server.seen) == 1


def test_a_content_length_that_is_too_short_is_found_out_and_the_rest_asked_for(server, tmp_path):
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(declare=-70_000)))
    assert [seen.range for seen in server.seen] == [None, "bytes=230000-"]
    assert server.sent == SIZE


def test_a_server_that_always_ends_early_is_given_up_with_its_count(server, tmp_path):
    address = server.put("file.bin", CONTENT, *[Reply(declare=-70_000, ranges=False)] * 5)
    with pytest.raises(UserError, match=r"the server ended after 230,000 bytes \(3 attempts in a row\)"):
        bring(tmp_path, address)
    assert len(server.seen) == 3


def test_wrong_bytes_are_set_aside_and_both_sums_named(server, tmp_path):
    address = server.put("file.bin", OTHER)
    with pytest.raises(UserError) as error:
        bring(tmp_path, address)
    for content in (OTHER, CONTENT):
        assert hashlib.md5(content).hexdigest() in str(error.value)
    assert (tmp_path / "file.bin.wrong").read_bytes() == OTHER
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin.wrong"]
    with pytest.raises(UserError, match=r"file\.bin\.wrong-2"):
        bring(tmp_path, address)


def test_a_file_of_another_size_is_told_by_what_the_server_gave(server, tmp_path):
    with pytest.raises(UserError, match=r"the server gave its size as 300,004 bytes"):
        bring(tmp_path, server.put("file.bin", OTHER + b"more"))
    assert (tmp_path / "file.bin.wrong").stat().st_size == SIZE


def test_right_md5_alone_is_not_enough(server, tmp_path):
    wrong = dataclasses.replace(remote(server.put("file.bin", CONTENT)), sha256="0" * 64)
    with pytest.raises(UserError, match=f"its sha256 is {hashlib.sha256(CONTENT).hexdigest()}, published is 0000"):
        fetch(wrong, tmp_path / "file.bin", None, QUICK, unwatched, lambda text: None)


def test_a_server_without_ranges_starts_again(server, tmp_path):
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(send=100_000), Reply(ranges=False)))
    assert [seen.status for seen in server.seen] == [200, 200]
    assert server.sent == 100_000 + SIZE


def test_a_file_that_changed_in_between_is_not_mixed(server, tmp_path):
    address = server.put("file.bin", CONTENT, Reply(send=100_000, content=OTHER, etag='"0"'))
    bring(tmp_path, address)
    assert server.seen[1].if_range == '"0"' and server.seen[1].status == 200


def test_a_change_that_no_validator_shows_is_found_by_the_checksum_and_fetched_afresh(server, tmp_path):
    server.etag = None
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(send=100_000, content=OTHER)))
    assert [seen.range for seen in server.seen] == [None, "bytes=100000-", None]


@pytest.mark.parametrize(
    ("etag", "modified", "condition"),
    [
        ('W/"7"', None, None),  # weak: says nothing about bytes
        ('W/"7"', "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
        (None, "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ('"7"', "Mon, 01 Jan 2024 00:00:00 GMT", '"7"'),
    ],
)
def test_if_range_carries_a_strong_validator_alone(server, tmp_path, etag, modified, condition):
    server.etag, server.modified = etag, modified
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(send=10)))
    assert server.seen[1].if_range == condition and server.sent == SIZE


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_error_is_asked_again(server, tmp_path, status):
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(status=status), Reply(status=status)))
    assert [seen.status for seen in server.seen] == [status, status, 200]


def test_retry_after_is_kept_to(server, tmp_path):
    waits = []
    address = server.put("file.bin", CONTENT, Reply(status=503, headers={"Retry-After": "1"}))
    fetch(remote(address), tmp_path / "file.bin", None, QUICK, unwatched, waits.append)
    assert waits == ["  file.bin: status 503 (Service Unavailable); 0 of 300,000 bytes are here, again in 1 s"]


def test_404_is_not_asked_again_and_the_next_address_is_taken(server, tmp_path):
    bring(tmp_path, f"{server.address}/gone.bin", server.put("file.bin", CONTENT))
    assert [seen.status for seen in server.seen] == [404, 200]
    with pytest.raises(UserError, match=r"gone.bin: status 404 \(Not Found\)"):
        fetch(remote(f"{server.address}/gone.bin"), tmp_path / "x", None, QUICK, unwatched, print)


def test_a_wrong_file_at_one_address_leaves_the_other(server, tmp_path):
    fetch(
        remote(server.put("bad.bin", OTHER), server.put("file.bin", CONTENT)),
        tmp_path / "file.bin", None, QUICK, unwatched, lambda text: None,
    )  # fmt: skip
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and (tmp_path / "file.bin.wrong").read_bytes() == OTHER


def test_the_mirror_replaces_every_address(server, tmp_path):
    server.put("copies/file.bin", CONTENT)
    bring(tmp_path, "http://127.0.0.1:9/never", mirror=f"{server.address}/copies/")
    assert [seen.path for seen in server.seen] == ["/copies/file.bin"]


def test_a_server_that_never_answers_is_given_up_after_the_time_out(server, tmp_path):
    patience = dataclasses.replace(QUICK, read_s=0.2)
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(hang=True)), patience=patience)
    address = server.put("file.bin", CONTENT, *[Reply(hang=True)] * 3)
    (tmp_path / "file.bin").unlink()
    with pytest.raises(UserError, match=r"nothing came for 0\.2 s \(3 attempts in a row\)"):
        bring(tmp_path, address, patience=patience)


def test_nobody_there(tmp_path):
    with pytest.raises(UserError, match="no connection"):
        bring(tmp_path, "http://127.0.0.1:9/file.bin", patience=dataclasses.replace(QUICK, attempts=1))


def test_a_redirect_keeps_the_range(server, tmp_path):
    server.put("real.bin", CONTENT, Reply(send=1000))
    moved = Reply(to=f"{server.address}/real.bin")
    bring(tmp_path, server.put("file.bin", CONTENT, moved, moved))
    assert [(seen.path, seen.range) for seen in server.seen] == [
        ("/file.bin", None), ("/real.bin", None), ("/file.bin", "bytes=1000-"), ("/real.bin", "bytes=1000-"),
    ]  # fmt: skip
    assert server.sent == SIZE


@pytest.mark.parametrize("wrong", [f"bytes 0-{SIZE - 1}/{SIZE}", f"bytes 1000-{SIZE}/{SIZE + 1}", "nonsense"])
def test_a_part_that_does_not_fit_is_thrown_away(server, tmp_path, wrong):
    bring(tmp_path, server.put("file.bin", CONTENT, Reply(send=1000), Reply(content_range=wrong)))
    assert [seen.range for seen in server.seen] == [None, "bytes=1000-", None]


def test_what_lies_there_as_a_part_is_used_only_if_it_fits(server, tmp_path):
    address = server.put("file.bin", CONTENT)
    part_of(tmp_path / "file.bin").write_bytes(CONTENT + b"more")
    bring(tmp_path, address)
    (tmp_path / "file.bin").unlink()
    part_of(tmp_path / "file.bin").write_bytes(CONTENT)  # killed between the last byte and the check
    bring(tmp_path, address)
    assert len(server.seen) == 1
    (tmp_path / "file.bin").unlink()
    part_of(tmp_path / "file.bin").write_bytes(OTHER)
    bring(tmp_path, address)
    assert len(server.seen) == 2
