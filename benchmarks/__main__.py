"""Run every benchmark and write outputs/bench/gates.json.

    python -m benchmarks [--quick] [--only loss,views] [--rounds 5] [--threads 1] [--out outputs/bench]

Each benchmark is a process of its own, with its threads fixed before anything is imported; one that fails leaves its
gates as not run, with the reason. gates.json is a list of {gate, measured, demanded, met, unit, against, machine,
date, versions, ...}; figures.json holds the ratios on which nothing is demanded.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness import Bench, arguments
from benchmarks.report import table


def main() -> int:
    """Return 0 when every benchmark ran to its end; a gate that was missed does not fail the command."""
    parser = arguments(__doc__)
    parser.add_argument("--only", default=None, help=f"some of: {','.join(BENCHMARKS)}")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(BENCHMARKS)
    unknown = sorted(set(chosen) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    out = Path(options.out or "outputs/bench")
    out.mkdir(parents=True, exist_ok=True)
    results, failed = [], []
    for name in chosen:
        began = time.perf_counter()
        print(f"== {name}", flush=True)
        code = run_one(name, options, out)
        print(f"== {name}: {time.perf_counter() - began:.0f} s", flush=True)
        failed += [name] if code else []
        results.append(result_of(name, out, code, options))
    gates = [row for result in results for row in result["gates"]]
    figures = [row for result in results for row in result["figures"]]
    for file, rows in (("gates.json", gates), ("figures.json", figures)):
        (out / file).write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = table(gates, figures)
    (out / "table.txt").write_text(text + "\n", encoding="utf-8")
    print("\n" + text + f"\n\n{out / 'gates.json'}")
    return 1 if failed else 0


def run_one(name: str, options: Any, out: Path) -> int:
    """Run one benchmark in its own process, all libraries held to the same number of threads."""
    (out / f"{name}.json").unlink(missing_ok=True)
    line = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out.resolve()), "--threads", str(options.threads)]
    line += ["--quick"] if options.quick else []
    for option in ("rounds", "device", "clock", "scratch"):
        value = getattr(options, option)
        line += [f"--{option}", str(value)] if value is not None else []
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(options.threads))
    return subprocess.run(line, env={**os.environ, **threads}, cwd=Path(__file__).parent.parent).returncode


def result_of(name: str, out: Path, code: int, options: Any) -> dict[str, Any]:
    """The rows of a benchmark; those of one that died without a word are written as not run."""
    file = out / f"{name}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    bench = Bench(name, importlib.import_module(f"benchmarks.{name}").GATES, quick=options.quick)
    bench.close(f"the benchmark ended with status {code} and wrote nothing")
    return {"gates": bench.rows, "figures": []}


if __name__ == "__main__":
    sys.exit(main())
