"""Stages: small programs from input artifacts to one output artifact.

A stage's fingerprint is the sha256 of what decides its result: its name, the science part of its spec,
the declared versions of itself and of the components it selects, and the fingerprints of its inputs.
`execute` reuses a finished artifact of that fingerprint, resumes a partial one, or makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from ssl_sat import artifact as artifacts
from ssl_sat import provenance
from ssl_sat.artifact import Artifact, Ref
from ssl_sat.registry import Entry, Registry
from ssl_sat.spec import Spec, UserError, runtime

Inputs = Mapping[str, Artifact]
Metrics = Mapping[str, Any]


class StageSpec(Spec):
    """Base of every stage's spec. `registries` names the fields that hold a component's spec."""

    registries: ClassVar[Mapping[str, Registry]] = {}

    outputs: str = runtime("outputs")
    stale: Literal["warn", "rerun", "error"] = runtime("warn")

    @model_validator(mode="before")
    @classmethod
    def _parse_components(cls, values: Any) -> Any:
        values = dict(values)
        for name, registry in cls.registries.items():
            value = values.get(name)
            if isinstance(value, (list, tuple)):
                values[name] = tuple(registry.parse({"name": v} if isinstance(v, str) else v) for v in value)
            elif value is not None:
                values[name] = registry.parse(value)
        return values

    def selected(self) -> dict[str, Entry]:
        """The registry entries that this spec selects, by `<kind>:<name>`. A field may hold one spec or several."""
        found = {}
        for field_name, registry in self.registries.items():
            value = getattr(self, field_name)
            for spec in value if isinstance(value, tuple) else (value,):
                if spec is not None:
                    found[f"{registry.kind}:{spec.name}"] = registry[spec.name]
        return found


@dataclass(frozen=True)
class Lookup:
    """Where inputs are looked for: finished artifacts under `outputs`, and those a plan is going to make."""

    outputs: Path
    planned: Mapping[Path, Ref] = field(default_factory=dict)

    def artifact(self, stage: str, value: str) -> Ref:
        """Resolve `latest` or a path to an artifact of the given stage; UserError if it is of another stage."""
        if value == "latest":
            ref = artifacts.latest(stage, self.outputs).ref
            print(f"{stage}: using latest, {ref.path}", flush=True)
            return ref
        ref = self.planned.get(Path(value)) or Artifact.open(value).ref
        if ref.stage != stage:
            raise UserError(f"{value} is an artifact of stage '{ref.stage}'; one of stage '{stage}' is needed here.")
        return ref

    def input_of(self, ref: Ref, slot: str, stage: str) -> Ref:
        """Return the artifact that went into `ref` at `slot`."""
        fingerprint = (ref.inputs or {})[slot]
        for planned in self.planned.values():
            if planned.fingerprint == fingerprint:
                return planned
        return artifacts.find(stage, fingerprint, self.outputs).ref


def _no_inputs(spec: Any, lookup: Lookup) -> dict[str, Ref]:
    return {}


@dataclass(frozen=True)
class Stage:
    """What the engine needs to know of a stage.

    inputs: resolves the spec's references to artifacts, slot by slot.
    run: does the work in a folder and returns flat metrics.
    choices: the readable part of the artifact's name.
    science: the part of the spec that enters the fingerprint.
    code: modules whose code is recorded beside the components'.
    """

    name: str
    version: int
    spec: type[StageSpec]
    run: Callable[[Any, Inputs, Path], Metrics]
    choices: Callable[[Any, Mapping[str, Ref]], str]
    inputs: Callable[[Any, Lookup], dict[str, Ref]] = _no_inputs
    science: Callable[[Any], dict[str, Any]] = lambda spec: spec.science()
    code: Sequence[str] = ()
    synthetic: Callable[[Any], bool] = lambda spec: False


def fingerprint(stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref]) -> str:
    """Return the sha256 (hex) of everything that decides the result of a stage."""
    versions = {stage.name: stage.version, **{name: entry.version for name, entry in spec.selected().items()}}
    identity = {
        "stage": stage.name,
        "science": stage.science(spec),
        "versions": versions,
        "inputs": {slot: ref.fingerprint for slot, ref in inputs.items()},
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True, allow_nan=False).encode()).hexdigest()


def plan(stage: Stage, spec: StageSpec, lookup: Lookup) -> Ref:
    """Return where the artifact of this spec lies or will lie, without making it."""
    inputs = stage.inputs(spec, lookup)
    print_ = fingerprint(stage, spec, inputs)
    choices = stage.choices(spec, inputs)
    path = Path(spec.outputs) / stage.name / f"{choices}-{print_[:8]}"
    synthetic = stage.synthetic(spec) or any(ref.synthetic for ref in inputs.values())
    fingerprints = {slot: ref.fingerprint for slot, ref in inputs.items()}
    return Ref(path, stage.name, print_, spec.model_dump(mode="json"), choices, synthetic, fingerprints)


def execute(stage: Stage, spec: StageSpec) -> Artifact:
    """Return the artifact of this spec: reuse it when it is finished, resume it when partial, make it otherwise."""
    lookup = Lookup(Path(spec.outputs))
    inputs = stage.inputs(spec, lookup)
    ref = plan(stage, spec, Lookup(lookup.outputs, {r.path: r for r in inputs.values()}))
    if not is_main_process():
        stage.run(spec, {slot: Artifact.open(r.path) for slot, r in inputs.items()}, partial_of(ref.path))
        return Artifact("", {})  # type: ignore[arg-type]
    lock = ref.path.parent / f".{ref.fingerprint[:8]}.lock"
    with artifacts.locked(lock, f"{ref.name}: another process is making it; waiting"):
        if (ref.path / "artifact.json").is_file():
            done = Artifact.open(ref.path)
            if _still_good(done, stage, spec):
                print(f"{stage.name}: already done, {done.path}", flush=True)
                return _linked(done)
            os.rename(ref.path, ref.path.with_name(f"{ref.path.name}.stale-{time.time_ns()}"))
        return _linked(_make(stage, spec, inputs, ref))


def _make(stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref], ref: Ref) -> Artifact:
    partial = partial_of(ref.path)
    resumed = partial.exists()
    partial.mkdir(parents=True, exist_ok=True)
    print(f"{stage.name}: {'resuming' if resumed else 'making'} {ref.path}", flush=True)
    artifacts.write_json(partial / "config.json", dict(ref.config), sort=False)  # phases have an order
    started = time.time()
    opened = {slot: Artifact.open(r.path) for slot, r in inputs.items()}
    metrics = artifacts.check_metrics(stage.run(spec, opened, partial))
    artifacts.write_json(partial / "metrics.json", metrics)
    synthetic = stage.synthetic(spec) or any(item.synthetic for item in opened.values())
    facts = {"started": started, "seconds": time.time() - started, "resumed": resumed}
    artifacts.write_json(partial / "provenance.json", {**provenance.collect(), **_extra_provenance(partial), **facts})
    record = {
        "stage": stage.name,
        "fingerprint": ref.fingerprint,
        "inputs": {slot: r.fingerprint for slot, r in inputs.items()},
        "input_paths": {slot: os.path.relpath(r.path, ref.path.parent.parent) for slot, r in inputs.items()},
        "choices": ref.choices,
        "code": provenance.code_digests(_modules(stage, spec)),
        "synthetic": synthetic,
    }
    return artifacts.publish(partial, ref.path, record)


def _extra_provenance(partial: Path) -> dict[str, Any]:
    """Facts that the run left in `run_facts.json` (devices, initialisation, data digests)."""
    path = partial / "run_facts.json"
    if not path.exists():
        return {}
    facts = json.loads(path.read_text())
    path.unlink()
    return facts


def record_facts(out: Path, **facts: Any) -> None:
    """Note facts of a run for its provenance.json."""
    if not is_main_process():
        return
    path = out / "run_facts.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    artifacts.write_json(path, {**before, **facts})


def _still_good(done: Artifact, stage: Stage, spec: StageSpec) -> bool:
    """Compare the code recorded with the artifact to today's, and follow `stale`."""
    now = provenance.code_digests(_modules(stage, spec))
    changed = sorted(name for name, digest in done.record["code"].items() if now.get(name) != digest)
    if not changed:
        return True
    text = f"{done.path} was made by other code of: {', '.join(changed)}"
    if spec.stale == "error":
        raise UserError(f"{text}. Choose stale=rerun to make it again or stale=warn to use it.")
    print(f"stale: {text} (stale={spec.stale})", flush=True)
    return spec.stale == "warn"


def _modules(stage: Stage, spec: StageSpec) -> list[str]:
    return [*stage.code, *(entry.module for entry in spec.selected().values())]


def _linked(done: Artifact) -> Artifact:
    artifacts.link("latest", done)
    artifacts.link(done.record["choices"], done)
    return done


def partial_of(path: Path) -> Path:
    """The folder in which the artifact `path` is being made."""
    return path.with_name(f"{path.name}.partial")


def is_main_process() -> bool:
    """Whether this is the process of a distributed run that writes (the only one, without a launcher)."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True
