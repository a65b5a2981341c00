"""Peak memory of one call: torch's allocator on CUDA, the process's resident high-water mark on a CPU.

On a CPU the call runs in a process of its own (`python -m benchmarks.memory benchmarks.loss:ours cpu 8192`): torch's
CPU allocator keeps no account, and tracemalloc does not see it. Inputs are made and a small call is done before the
mark is reset, so that what is counted is what the call itself adds.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

WARM_UP = 256  # size of the small call that loads libraries and thread pools
Case = Callable[[int, str], Callable[[], object]]  # (size, device) -> the call that is measured


def peak_bytes(case: str, sizes: Sequence[int], device: str, threads: int) -> dict[int, int]:
    """Bytes that `module:function` adds at its peak, by size; without those its process did not live to tell."""
    # Freed blocks above 64 KiB go back to the system at once: what stays in malloc's hands would count as used.
    env = {"OMP_NUM_THREADS": str(threads), "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    line = [sys.executable, "-m", "benchmarks.memory", case, device, *map(str, sizes)]
    root = Path(__file__).parent.parent
    done = subprocess.run(line, env={**os.environ, **env}, cwd=root, stdout=subprocess.PIPE, text=True)
    return {int(size): int(peak) for size, peak in (line.split() for line in done.stdout.splitlines())}


def resident(field: str) -> int:
    """Bytes of a line of /proc/self/status: VmRSS, VmHWM, RssAnon, RssFile."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def reset_high_water() -> None:
    """Set VmHWM to what is resident now (Linux 4.0 and later)."""
    Path("/proc/self/clear_refs").write_text("5")


def _measure(case: Case, size: int, device: str) -> int:
    import torch

    case(WARM_UP, device)()
    call = case(size, device)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    reset_high_water()
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


if __name__ == "__main__":
    module, _, function = sys.argv[1].partition(":")
    for size in map(int, sys.argv[3:]):
        print(size, _measure(getattr(importlib.import_module(module), function), size, sys.argv[2]), flush=True)
