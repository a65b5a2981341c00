"""What each command costs in time and disk: the table of the README, from one run of the commands on real data.

    python -m benchmarks.commands --eurosat data/EuroSAT_RGB --ucmerced data/UCMerced_LandUse [--out costs.md]

Every command runs as a user gives it, in an empty folder, one after the other; nothing else should run beside them.
Not part of `make bench`: no ratio, only what one machine takes. Patches of BigEarthNet are generated in its layout.
Wall and CPU time are of the command with all its processes, start of Python included; disk is what it left behind.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import patches
from benchmarks.harness import machine

BIGEARTHNET = 2000  # patches that are generated
BUDGET = ["trainer=bf16", "trainer.progress=false"]


class Cost(NamedTuple):
    """A command and what it took: seconds of wall and CPU time, bytes that it left."""

    what: str
    on: str
    wall_s: float
    cpu_s: float
    disk: int


def commands(eurosat: Path, ucmerced: Path, generated: Path) -> list[tuple[str, str, list[str]]]:
    """Stage, what it works on, overrides; each finds what the ones before it made."""
    rgb = ["data=eurosat_rgb", f"data.root={eurosat}"]
    ben = ["data=bigearthnet_v1", f"data.root={generated / 'BigEarthNet-v1.0'}", "data.split=none", "progress=false"]
    scratch = ["init=scratch", "encoder=resnet18", "phases=full", "epochs=1", "batch_size=64"]
    return [
        ("doctor", "EuroSAT RGB, 27,000 JPEG", rgb),
        ("pack", "EuroSAT RGB, 27,000 JPEG", [*rgb, "progress=false"]),
        ("doctor", "that pack", ["pack=outputs/pack/eurosat_rgb-random"]),
        ("pack", f"BigEarthNet, {BIGEARTHNET:,} generated patches of 12 GeoTIFF", ben),
        ("pretrain", "one epoch, 5,000 images, ResNet-18, 64 px",
         [*rgb, "subset={patches: 5000}", "encoder=resnet18", "augment=simclr_rgb", "epochs=1", "batch_size=128",
          "optim.warmup_epochs=0", *BUDGET]),
        ("finetune", "one epoch, 16,200 images, ResNet-18; val and test of 5,400 each", [*rgb, *scratch, *BUDGET]),
        ("ood_eval", "5,400 + 294 images, T = 30", [f"ood.root={ucmerced}"]),
        ("umap_report", "5,400 + 294 images", []),
        ("embed", "27,000 images", ["pack=outputs/pack/eurosat_rgb-random", "to=features.npy", "progress=false"]),
        ("export", "all formats", ["to=weights"]),
        ("pretrain", "the same again: already done",
         [*rgb, "subset={patches: 5000}", "encoder=resnet18", "augment=simclr_rgb", "epochs=1", "batch_size=128",
          "optim.warmup_epochs=0", *BUDGET]),
    ]  # fmt: skip


def measure(folder: Path, stage: str, on: str, overrides: Sequence[str]) -> Cost:
    """Run one command in `folder`."""
    before, began, used = size_of(folder), time.perf_counter(), cpu_seconds()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    line = [sys.executable, "-m", f"ssl_sat.{stage}", *overrides]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return Cost(stage, on, time.perf_counter() - began, cpu_seconds() - used, size_of(folder) - before)


def cpu_seconds() -> float:
    """CPU seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size_of(folder: Path) -> int:
    """Bytes of the regular files under a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def table(costs: Sequence[Cost]) -> str:
    """As Markdown."""
    lines = ["| command | on | wall | CPU | disk |", "|---|---|---|---|---|"]
    for cost in costs:
        disk = f"{cost.disk / 1e6:,.1f} MB" if cost.disk > 50_000 else "-"
        lines.append(f"| `{cost.what}` | {cost.on} | {cost.wall_s:,.1f} s | {cost.cpu_s:,.1f} s | {disk} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eurosat", type=Path, required=True, help="EuroSAT RGB as unpacked")
    parser.add_argument("--ucmerced", type=Path, required=True, help="UC Merced as unpacked")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ssl_sat_costs-") as scratch:
        generated, work = Path(scratch) / "generated", Path(scratch) / "work"
        work.mkdir()
        patches.write_layout(generated, BIGEARTHNET)
        costs = []
        for stage, on, overrides in commands(options.eurosat.absolute(), options.ucmerced.absolute(), generated):
            costs.append(measure(work, stage, on, overrides))
            print(f"{stage:12} {costs[-1].wall_s:8.1f} s  {on}", file=sys.stderr, flush=True)
    text = f"{table(costs)}\n\n{machine()}"
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
