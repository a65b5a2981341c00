"""What the measured rates mean for a node, eight GPUs and a cluster: the arithmetic of docs/scale.md.

    python -m benchmarks.scale [--figures outputs/bench/figures.json]

Rates are read from the figures of a benchmark's run and marked 'measured'; everything else is an assumption, stated
here by name and marked 'estimate'. Printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RECORD = 160_000  # bytes: docs/pack_format.md
SETS = {"BigEarthNet v1, training split": 269_695, "BigEarthNet v1, all": 590_326, "ten million patches": 10_000_000}
# Assumptions, none of them measured here.
EATEN = 20_000  # patches/s of one H100-class GPU: ResNet-50, 7x7 stem, 64 px, two views, bf16
GPU_RESIDENT = 0.6 * 80e9  # bytes: the loader's share of an 80 GB GPU's free memory
NODE_MEMORY = 0.8 * 1e12  # bytes: the loader's share of a node of 1 TB
NVME, OBJECT_STORE = 6e9, 1e9  # bytes/s of one node: local disks in sequence; many parallel ranged reads
UPLOAD = 20e9  # bytes/s from pinned memory over PCIe 4 x16, as reached in practice
CORES = (1, 8, 32, 64)
EFFICIENCY = 0.8  # of each further core while packing, as long as the disk keeps up
PACKING, READING, COLD = (
    "packing, patches a second and core", "reading, PatchLoader, patches a second", "reading, PatchLoader, cold"
)  # fmt: skip
VIEWS = "two views, native integers, views a second"


def rates(file: Path) -> dict[str, float]:
    """The measured figures by name; a quick run has none."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return {row["figure"]: row["measured"] for row in found if not row["quick"] and row["device"] == "cpu"}


def packing(rate: float) -> list[str]:
    """Minutes to pack, by cores."""
    lines = ["| set | size | " + " | ".join(f"{n} cores" for n in CORES) + " |", "|---|---" + "|---" * len(CORES) + "|"]
    for name, count in SETS.items():
        minutes = [count / (rate * (1 + EFFICIENCY * (n - 1))) / 60 for n in CORES]
        lines.append(
            f"| {name} | {count * RECORD / 1e9:,.0f} GB | " + " | ".join(f"{m:.2g} min" for m in minutes) + " |"
        )
    return lines


def feeding(reading: float, cold: float) -> list[str]:
    """Bytes a second that GPUs eat, beside what can bring them."""
    one = EATEN * RECORD
    lines = ["| where the patches are | brings patches/s | GPUs it feeds | |", "|---|---|---|---|"]
    for where, bytes_s, mark in (
        ("page cache, one reading thread", reading * RECORD, "measured here"),
        ("this machine's disk, cold, one thread", cold * 1e6, "measured here"),
        ("a node's NVMe, in sequence", NVME, "estimate"), ("object storage, one node", OBJECT_STORE, "estimate"),
        ("pinned memory to one GPU over PCIe", UPLOAD, "estimate"),
    ):  # fmt: skip
        lines.append(f"| {where} | {bytes_s / RECORD:,.0f} | {bytes_s / one:.2g} | {mark} |")
    return [f"One GPU eats {EATEN:,} patches/s (estimate) x {RECORD:,} bytes = {one / 1e9:.1f} GB/s.", "", *lines]


def resident(count: int, gpus: int) -> str:
    """Where a set stays with so many GPUs of one node."""
    size = count * RECORD
    if size <= GPU_RESIDENT:
        return "whole on every GPU"
    if 2 * size / gpus <= GPU_RESIDENT:  # this epoch's shard and, on its way, the next
        return f"a shard of {size / gpus / 1e9:,.1f} GB on each GPU"
    return "page cache of the node" if size <= NODE_MEMORY else "the node's disk"


def residency() -> list[str]:
    """Where each set stays on one GPU, on eight, and on 64 in eight nodes."""
    lines = ["| set | size | 1 GPU | 8 GPUs | 8 nodes x 8 GPUs |", "|---|---|---|---|---|"]
    for name, count in SETS.items():
        places = " | ".join(resident(count, gpus) for gpus in (1, 8, 64))
        lines.append(f"| {name} | {count * RECORD / 1e9:,.0f} GB | {places} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=Path("outputs/bench/figures.json"))
    found = rates(parser.parse_args().figures)
    absent = [name for name in (PACKING, READING, COLD, VIEWS) if name not in found]
    if absent:
        parser.error(f"not in these figures: {'; '.join(absent)}. Run `make bench` first (not --quick).")
    print("\n".join(["**Packing**", "", *packing(found[PACKING]), "", "**Where it stays**", "", *residency()]))
    print("\n".join(["", "**Feeding**", "", *feeding(found[READING], found[COLD])]))
    views = found[VIEWS]
    cores = 2 * EATEN / views
    print(f"\nViews on a CPU: {views:,.0f} a second and core (measured): {cores:,.0f} cores for one GPU.")


if __name__ == "__main__":
    main()
