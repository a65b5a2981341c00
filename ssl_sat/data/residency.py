"""Where the patches of a run stay while it reads them, chosen by free memory; the choice never changes a result.

    device   on the device, whole, or each rank's share of one epoch at a time
    pinned   in the page cache, which the ranks of a node share, read ahead into a ring of host buffers
    map      on disk, through the same ring; only as much as fits is left in the page cache
"""  # fmt: skip

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ssl_sat.spec import ConfigError, UserError

Tier = Literal["auto", "device", "pinned", "map"]
DEVICE_SHARE = 0.6  # of the free device memory may hold patches; the rest is for activations, gradients, workspaces
HOST_SHARE = 0.8  # of the free host memory may hold patches, as page cache that the system can take back


@dataclass(frozen=True)
class Facts:
    """Bytes. set_bytes: of all patches of the run. shard_bytes: of one rank's share of an epoch. batch_bytes: likewise
    of a batch. device_free: None where batches stay on the CPU; `repeated`: patches are read again every epoch.
    """  # fmt: skip

    set_bytes: int
    shard_bytes: int
    batch_bytes: int
    depth: int
    host_free: int
    device_free: int | None = None
    local_ranks: int = 1
    repeated: bool = True


@dataclass(frozen=True)
class Residency:
    """Tier, and how. sharded: the device holds a rank's share of one epoch. staged: and the next share arrives
    meanwhile. kept_bytes: what is left in the page cache (None: all). why: for the report.
    """  # fmt: skip

    tier: Literal["device", "pinned", "map"]
    why: str
    sharded: bool = False
    staged: bool = False
    kept_bytes: int | None = None


def choose(wanted: Tier, facts: Facts) -> Residency:
    """The tier that was asked for, or the first that fits: whole on the device, shards with the next one staged,
    page cache, disk. UserError when `device` was asked for and not even one share fits.

    Shards of which only one fits are taken on request alone: training would stand still while they change.
    """  # fmt: skip
    host = HOST_SHARE * (facts.host_free - facts.local_ranks * facts.depth * facts.batch_bytes)
    free = f"{gigabytes(facts.host_free)} free"
    if wanted == "device":
        return _on_device(facts, host)
    if wanted == "auto" and facts.device_free is not None and facts.repeated:
        device = DEVICE_SHARE * facts.device_free
        if facts.set_bytes <= device or 2 * facts.shard_bytes <= device:
            return _on_device(facts, host)
    if wanted == "pinned" or (wanted == "auto" and facts.set_bytes <= host):
        fits = facts.set_bytes <= host
        return Residency("pinned", f"{'fits' if fits else 'does not fit'} in host memory ({free})")
    kept = int(max(host, 0))
    if facts.set_bytes <= kept:
        return Residency("map", f"asked for, though it fits in host memory ({free})")
    return Residency("map", f"{gigabytes(kept)} of it stay in host memory ({free})", kept_bytes=kept)


def _on_device(facts: Facts, host: float) -> Residency:
    if facts.device_free is None:
        budget, free, where = host / facts.local_ranks, facts.host_free, "host memory of each rank"
    else:
        budget, free, where = DEVICE_SHARE * facts.device_free, facts.device_free, "device memory"
    room = f"({gigabytes(free)} free, {gigabytes(max(int(budget), 0))} for data)"
    if facts.set_bytes <= budget:
        return Residency("device", f"fits in {where} {room}")
    shard = f"a rank's share of an epoch, {gigabytes(facts.shard_bytes)},"
    if 2 * facts.shard_bytes <= budget:
        return Residency("device", f"{shard} fits twice in {where} {room}", sharded=True, staged=True)
    if facts.shard_bytes <= budget:
        return Residency("device", f"{shard} fits in {where} {room}", sharded=True)
    raise UserError(
        f"trainer.data_tier=device: the patches need {gigabytes(facts.set_bytes)}, {shard} does not fit either "
        f"in {where} {room}. Choose trainer.data_tier=auto, or train on more devices."
    )


def describe(residency: Residency, patches: int, set_bytes: int, folder: Path, depth: int, device: torch.device) -> str:
    """One line for the user: what, where, why."""
    on = "in host memory" if device.type == "cpu" else f"on {device.type}"
    ring = f"{'pinned ' if device.type == 'cuda' else ''}ring of {depth} batches"
    kind = {"device": f"whole, {on}", "pinned": ring, "map": f"{ring} from disk"}[residency.tier]
    if residency.sharded:
        kind = f"a share per rank and epoch, {on}{', the next one arriving meanwhile' if residency.staged else ''}"
    name = Path(folder.resolve().parent.name, folder.resolve().name)
    return f"data: {patches:,} patches ({gigabytes(set_bytes)}) of {name}: {kind}; {residency.why}"


def gigabytes(count: float) -> str:
    """Decimal gigabytes with two digits below ten."""
    value = count / 1e9
    return f"{value:.2f} GB" if value < 10 else f"{value:.1f} GB"


def device_free(device: torch.device) -> int | None:
    """Free bytes of a CUDA device as the driver sees them (what torch keeps for itself is not free), None otherwise."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def feeds(device: torch.device) -> torch.device:
    """Where a loader can put batches itself: CUDA (with its index) or the CPU, from which the Trainer moves them on."""
    if device.type != "cuda":
        return torch.device("cpu")
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


def check(wanted: Tier, device: torch.device) -> None:
    """ConfigError when the device cannot hold patches."""
    if wanted == "device" and device.type not in ("cpu", "cuda"):
        raise ConfigError(f"trainer.data_tier=device works on CUDA and on the CPU, not on {device.type}; choose auto")


def host_free(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still use without swapping: the system's, or less where a cgroup says so.

    Page cache counts as free, since the kernel takes it back.
    """
    return max(0, min([_available(proc), *_group_limits(proc, groups)]))


def _available(proc: Path) -> int:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # no Linux: half of what there is


def _group_limits(proc: Path, groups: Path) -> list[int]:
    """What each cgroup above this process leaves free, of version 2 or 1."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage, cache = groups, "memory.max", "memory.current", ("active_file", "inactive_file")
        elif "memory" in controllers.split(","):
            base, limit, usage = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = ("total_active_file", "total_inactive_file")
        else:
            continue
        inner = base / path.strip("/")
        for folder in (inner, *inner.parents):
            if folder == base.parent:
                break
            free = _left_in(folder, limit, usage, cache)
            found += [] if free is None else [free]
    return found


def _left_in(folder: Path, limit: str, usage: str, cache: tuple[str, str]) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        if not most.isdigit():  # 'max'
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / usage).read_text()) - sum(int(stat.get(name, 0)) for name in cache)
        return int(most) - max(used, 0)
    except (OSError, ValueError):
        return None
