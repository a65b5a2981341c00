"""Look before a long run: what is there, missing or damaged, and what it will cost in disk, memory and minutes.

    python -m ssl_sat.doctor                                      # the environment alone
    python -m ssl_sat.doctor data=eurosat_rgb data.root=/data/EuroSAT_RGB
    python -m ssl_sat.doctor pack=outputs/pack/latest deep=true   # every record of a finished pack

It takes the options of `data=...` that packing takes, reads a seeded sample of patches (deep=true: all of them, on all
cores) and writes nothing. Status 0 when a run can start, 1 when something must be repaired first.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, SerializeAsAny, model_validator

from ssl_sat.data import SOURCES
from ssl_sat.data.spec import DataSpec
from ssl_sat.stage import StageSpec

if TYPE_CHECKING:
    from ssl_sat.diagnosis.finding import Finding


class DoctorSpec(StageSpec):
    """What to look at: a data set by its spec, a pack by its path, or neither; and how closely."""

    registries: ClassVar = {"data": SOURCES}

    data: SerializeAsAny[DataSpec] | None = None
    pack: str | None = None
    samples: int = Field(default=256, ge=1)
    deep: bool = False
    workers: int | None = Field(default=None, ge=1)
    progress: bool = True

    @model_validator(mode="after")
    def _one_at_a_time(self) -> DoctorSpec:
        if self.data is not None and self.pack is not None:
            raise ValueError("give either data=... or pack=...: one thing at a time")
        return self


def diagnose(spec: DoctorSpec) -> Iterator[tuple[str, Iterator[Finding]]]:
    """Blocks of findings, each with its title, as they become known."""
    from ssl_sat.data.pack_workers import usable_cores
    from ssl_sat.diagnosis.environment import environment
    from ssl_sat.diagnosis.pack import examine_pack
    from ssl_sat.diagnosis.source import Look, examine, home
    from ssl_sat.progress import counter

    def watch(label: str, unit: str):  # type: ignore[no-untyped-def]
        return counter(label, unit, spec.progress)

    yield "environment", environment(spec.outputs)
    workers = spec.workers or usable_cores()
    if spec.pack is not None:
        path = home(spec.pack)
        yield f"pack {path}", examine_pack(path, spec.samples, spec.deep, workers, watch)
    if spec.data is not None:
        look = Look(spec.samples, spec.deep, workers, home(spec.outputs), watch)
        yield f"data {spec.data.name}", examine(spec.data, look, _packed(spec))


def _packed(spec: DoctorSpec) -> Path | None:
    """The finished pack of this very data set, if there is one."""
    from ssl_sat.pack import PACK, PackSpec
    from ssl_sat.spec import UserError
    from ssl_sat.stage import Lookup, plan

    try:
        ref = plan(PACK, PackSpec(data=spec.data, outputs=spec.outputs), Lookup(Path(spec.outputs)))
    except (UserError, OSError):
        return None
    return ref.path if (ref.path / "artifact.json").is_file() else None


def run(spec: DoctorSpec) -> None:
    """Print the findings; SystemExit with status 1 when something must be repaired."""
    from ssl_sat.diagnosis.finding import lines

    bad = 0
    for title, findings in diagnose(spec):
        print(title, flush=True)
        for finding in findings:
            print(lines(finding), flush=True)
            bad += finding.state == "WRONG"
    if bad:
        print(f"\n{bad} {'thing' if bad == 1 else 'things'} to repair (WRONG above) before a run can start", flush=True)
        raise SystemExit(1)
    print(f"\nnothing stands in the way{_next(spec)}", flush=True)


def _next(spec: DoctorSpec) -> str:
    if spec.pack is not None:
        return f"; next: python -m ssl_sat.pretrain pack={spec.pack}"
    if spec.data is None:
        return "; next: look at your data with data=<name> data.root=<folder>, or fetch some with ssl_sat.download"
    same = [shlex.quote(text) for text in sys.argv[1:] if text.startswith(("data", "outputs="))]
    return f"; next: python -m ssl_sat.pack {' '.join(same)}"


if __name__ == "__main__":
    from ssl_sat import config

    config.run("doctor", DoctorSpec, run)
