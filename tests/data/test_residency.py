"""Which tier is chosen, what counts as free memory, and what the user is told."""

from pathlib import Path

import pytest
import torch

from ssl_sat.data import residency
from ssl_sat.data.residency import Facts, choose, describe
from ssl_sat.spec import ConfigError, UserError

GB = 10**9
BEN = Facts(set_bytes=43 * GB, shard_bytes=43 * GB, batch_bytes=GB // 10, depth=4, host_free=100 * GB)


def facts(**changed) -> Facts:
    return Facts(**{**BEN.__dict__, **changed})


@pytest.mark.parametrize(
    ("wanted", "changed", "tier", "sharded", "staged"),
    [
        ("auto", {"device_free": 78 * GB}, "device", False, False),  # 60 % of 78 GB are 46.8
        ("auto", {"device_free": 70 * GB}, "pinned", False, False),
        ("auto", {"device_free": 39 * GB, "shard_bytes": 43 * GB // 4, "local_ranks": 4}, "device", True, True),
        ("auto", {"device_free": 39 * GB, "shard_bytes": 43 * GB // 2, "local_ranks": 2}, "pinned", False, False),
        ("device", {"device_free": 39 * GB, "shard_bytes": 43 * GB // 2, "local_ranks": 2}, "device", True, False),
        ("auto", {"device_free": 139 * GB, "repeated": False}, "pinned", False, False),  # read once: nothing to keep
        ("auto", {}, "pinned", False, False),
        ("auto", {"host_free": 53 * GB}, "map", False, False),  # 80 % of (53 - 0.4) GB are 42.1
        ("auto", {"host_free": 60 * GB, "local_ranks": 15}, "pinned", False, False),  # ranks share the page cache
        ("auto", {"host_free": 60 * GB, "batch_bytes": 2 * GB}, "map", False, False),  # but the ring is each one's own
        ("device", {}, "device", False, False),
        ("device", {"local_ranks": 2, "shard_bytes": 43 * GB // 2}, "device", True, False),
        ("pinned", {"host_free": 20 * GB}, "pinned", False, False),
        ("map", {}, "map", False, False),
    ],
)
def test_the_first_that_fits(wanted, changed, tier, sharded, staged):
    chosen = choose(wanted, facts(**changed))
    assert (chosen.tier, chosen.sharded, chosen.staged) == (tier, sharded, staged)


def test_map_keeps_in_the_page_cache_what_fits():
    assert choose("map", facts(host_free=20 * GB)).kept_bytes == int(0.8 * (20 - 0.4) * GB)
    assert choose("map", facts()).kept_bytes is None
    assert choose("map", facts(host_free=GB // 10)).kept_bytes == 0


def test_a_device_that_cannot_hold_a_share_is_refused_with_the_numbers():
    with pytest.raises(UserError, match=r"patches need 43.0 GB.*16.0 GB free, 9.60 GB for data.*data_tier=auto"):
        choose("device", facts(device_free=16 * GB))
    with pytest.raises(ConfigError, match="not on mps"):
        residency.check("device", torch.device("mps"))


def test_the_line_for_the_user():
    cpu, folder = torch.device("cpu"), Path("/somewhere/outputs/pack/eurosat_rgb-1234")
    small = facts(set_bytes=199_065_600, host_free=21_300_000_000)
    assert describe(choose("auto", small), 16200, small.set_bytes, folder, 4, cpu) == (
        "data: 16,200 patches (0.20 GB) of pack/eurosat_rgb-1234: ring of 4 batches; fits in host memory (21.3 GB free)"
    )
    cuda = facts(device_free=78 * GB)
    line = describe(choose("auto", cuda), 269695, cuda.set_bytes, folder, 4, torch.device("cuda", 0))
    assert "whole, on cuda; fits in device memory (78.0 GB free, 46.8 GB for data)" in line
    shards = facts(device_free=39 * GB, shard_bytes=43 * GB // 4)
    line = describe(choose("auto", shards), 269695, shards.set_bytes, folder, 4, torch.device("cuda", 0))
    assert "a share per rank and epoch, on cuda, the next one arriving meanwhile; a rank's share of an epoch, " in line
    line = describe(choose("auto", facts(host_free=20 * GB)), 269695, 43 * GB, folder, 2, torch.device("cuda", 0))
    assert line.endswith("pinned ring of 2 batches from disk; 15.7 GB of it stay in host memory (20.0 GB free)")


@pytest.fixture
def machine(tmp_path):
    """A /proc with 8,000 kB available; `inside(path, **files)` puts the process into a cgroup."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    8000 kB\n")

    def inside(path: str, **files: str) -> None:
        folder = groups / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    return proc, groups, inside


def test_free_memory_without_limits_and_without_linux(machine, tmp_path):
    proc, groups, _ = machine
    assert residency.host_free(proc, groups) == 8_000 * 1024
    assert residency.host_free(tmp_path / "none", groups) > 0
    assert residency.host_free() > 0


def test_the_tightest_cgroup_counts_and_page_cache_is_free(machine):
    proc, groups, inside = machine
    (proc / "self/cgroup").write_text("0::/job/step\n")
    stat = "anon 5\nactive_file 100000\ninactive_file 200000\n"
    inside("job/step", memory__max="max\n", memory__current="900000\n", memory__stat=stat)
    inside("job", memory__max="4000000\n", memory__current="1300000\n", memory__stat=stat)
    assert residency.host_free(proc, groups) == 4_000_000 - (1_300_000 - 300_000)
    inside("job/step", memory__max="1000000\n")
    assert residency.host_free(proc, groups) == 1_000_000 - 600_000
    inside("job/step", memory__max="100\n")
    assert residency.host_free(proc, groups) == 0


def test_cgroups_of_version_1(machine):
    proc, groups, inside = machine
    (proc / "self/cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n")
    inside("memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="5000000",
           memory__stat="total_active_file 0\ntotal_inactive_file 0\n")  # fmt: skip
    assert residency.host_free(proc, groups) == 8_000 * 1024  # a container sees its own group as the root
    inside("memory", memory__limit_in_bytes="6000000")
    assert residency.host_free(proc, groups) == 1_000_000
