"""Stages: small programs from input artifacts to one output artifact.

A stage's fingerprint is the sha256 of what decides its result: its name, the science part of its spec,
the declared versions of itself and of the components it selects, and the fingerprints of its inputs.
`execute` reuses a finished artifact of that fingerprint, resumes a partial one, or makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from ssl_sat import artifact as artifacts
from ssl_sat import provenance
from ssl_sat.artifact import Artifact, Ref
from ssl_sat.ranks import agreed, is_main_process
from ssl_sat.registry import Entry, Registry
from ssl_sat.spec import MissingInput, Spec, UserError, runtime

Inputs = Mapping[str, Artifact]
Metrics = Mapping[str, Any]
_BEGAN, _FED, _FACTS = ".began.json", ".fed.json", ".facts.json"  # notes inside a partial folder


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

    @field_validator("outputs")
    @classmethod
    def _home(cls, outputs: str) -> str:
        return os.path.expanduser(outputs)  # no shell expands the ~ of `outputs=~/runs`

    def selected(self) -> dict[str, Entry]:
        """The registry entries that this spec selects, by `<kind>:<name>`. A field may hold one spec or several.

        Runtime fields stay out: an input's fingerprint stands for them. So do fields that came later, at their default.
        """
        found = {}
        for field_name, registry in self.registries.items():
            if not self._decides(field_name, type(self).model_fields[field_name]):
                continue
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
            print(f"{stage}: using latest, {artifacts.shown(ref.path)}", flush=True)
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
        own = ref.path.parent.parent  # the outputs folder that `ref` itself lies in, which may be another one
        try:
            return artifacts.find(stage, fingerprint, own).ref
        except MissingInput:
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
    headline: lines to print when the artifact is there, from its metrics.
    distributed: whether every process of a distributed run takes part in `run`; otherwise the others wait for it.
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
    headline: Callable[[Metrics], Sequence[str]] = lambda metrics: ()
    distributed: bool = False


def identity(stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref]) -> dict[str, Any]:
    """Return everything that decides the result of a stage, as JSON-ready data."""
    versions = {stage.name: stage.version, **{name: entry.version for name, entry in spec.selected().items()}}
    return {
        "stage": stage.name,
        "science": stage.science(spec),
        "versions": versions,
        "inputs": {slot: ref.fingerprint for slot, ref in inputs.items()},
    }


def fingerprint(stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref]) -> str:
    """Return the sha256 (hex) of everything that decides the result of a stage."""
    return digest_of(identity(stage, spec, inputs))


def digest_of(what: Mapping[str, Any]) -> str:
    """The sha256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, allow_nan=False).encode()).hexdigest()


def plan(stage: Stage, spec: StageSpec, lookup: Lookup) -> Ref:
    """Return where the artifact of this spec lies or will lie, without making it."""
    return _planned(stage, spec, stage.inputs(spec, lookup))


def _planned(stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref]) -> Ref:
    what = identity(stage, spec, inputs)
    print_ = digest_of(what)
    choices = re.sub(r"[^A-Za-z0-9._+-]", "_", stage.choices(spec, inputs))
    path = Path(spec.outputs) / stage.name / f"{choices}-{print_[:8]}"
    synthetic = stage.synthetic(spec) or any(ref.synthetic for ref in inputs.values())
    fingerprints = {slot: ref.fingerprint for slot, ref in inputs.items()}
    config = spec.model_dump(mode="json")
    return Ref(path, stage.name, print_, config, choices, synthetic, fingerprints, what)


def execute(stage: Stage, spec: StageSpec) -> Artifact:
    """Return the artifact of this spec: reuse it when it is finished, resume it when partial, make it otherwise.

    Only the main process of a distributed run writes.
    """
    inputs = _agreed_inputs(stage, spec)
    ref = _planned(stage, spec, inputs)
    if not is_main_process():
        return _beside_main_process(stage, spec, inputs, ref)
    lock = ref.path.parent / f".{ref.fingerprint[:8]}.lock"
    with artifacts.locked(lock, f"{ref.name}: another process is making it; waiting"):
        done = _finished(ref)
        if done and _still_good(done.path, _unlike(done.record, stage, spec, inputs), spec):
            print(f"{stage.name}: already done, {artifacts.shown(done.path)}", flush=True)
        else:
            done = _make(stage, spec, inputs, ref)
        for line in stage.headline(done.metrics):
            print(f"  {line}", flush=True)
        artifacts.link(ref.path.parent / "latest", ref.path.name)
        artifacts.link(ref.path.parent / ref.choices, ref.path.name)
    return done


def _agreed_inputs(stage: Stage, spec: StageSpec) -> dict[str, Ref]:
    """Inputs as the main process resolves them: `latest` may move while the others start."""
    resolved: dict[str, Ref] = {}

    def decide() -> dict[str, str]:
        resolved.update(stage.inputs(spec, Lookup(Path(spec.outputs))))
        return {slot: str(ref.path.absolute()) for slot, ref in resolved.items()}

    paths = agreed(f"inputs of {stage.name}", decide, Path(spec.outputs))
    return resolved or {slot: Artifact.open(path).ref for slot, path in paths.items()}


def _beside_main_process(stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref], ref: Ref) -> Artifact:
    """Take part in the run, writing nothing, or wait until the main process has made the artifact."""
    done = _finished(ref)
    stale = done is not None and spec.stale == "rerun" and bool(_unlike(done.record, stage, spec, inputs))
    if done and not stale:
        return done
    if stage.distributed:
        stage.run(spec, _opened(inputs), partial_of(ref.path))
        return Artifact(ref.path, {})  # the main process is about to finish it
    while done is None or (stale and _unlike(done.record, stage, spec, inputs)):
        time.sleep(0.2)
        done = _finished(ref)
    return done


def _finished(ref: Ref) -> Artifact | None:
    if (ref.path / "artifact.json").is_file():
        return Artifact.open(ref.path)
    if os.path.lexists(ref.path):
        raise UserError(f"{ref.path} is in the way: no finished artifact. Move it away and start again.")
    return None


def _opened(inputs: Mapping[str, Ref]) -> dict[str, Artifact]:
    return {slot: Artifact.open(ref.path) for slot, ref in inputs.items()}


def _make(stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref], ref: Ref) -> Artifact:
    partial = partial_of(ref.path)
    made_of, resumed = _begin(partial, stage, spec, inputs)
    print(f"{stage.name}: {'resuming' if resumed else 'making'} {artifacts.shown(ref.path)}", flush=True)
    artifacts.write_json(partial / "config.json", dict(ref.config), sort=False)  # phases have an order
    started = time.time()
    opened = _opened(inputs)
    metrics = artifacts.check_metrics(stage.run(spec, opened, partial))
    artifacts.write_json(partial / "metrics.json", metrics)
    synthetic = stage.synthetic(spec) or any(item.synthetic for item in opened.values())
    facts = {"started": started, "seconds": time.time() - started, "resumed": resumed}
    artifacts.write_json(partial / "provenance.json", {**provenance.collect(), **_run_facts(partial), **facts})
    record = {
        "stage": stage.name,
        "fingerprint": ref.fingerprint,
        "inputs": {slot: r.fingerprint for slot, r in inputs.items()},
        "input_paths": {slot: os.path.relpath(r.path, ref.path.parent.parent) for slot, r in inputs.items()},
        "choices": ref.choices,
        **made_of,
        "synthetic": synthetic,
        **{key: ref.identity[key] for key in ("science", "versions")},
    }
    for note in (_BEGAN, _FED, _FACTS):
        (partial / note).unlink(missing_ok=True)
    if ref.path.exists():  # a stale one, kept until now
        os.rename(ref.path, _stale_name(ref.path))
    return artifacts.publish(partial, ref.path, record)


def _begin(
    partial: Path, stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref]
) -> tuple[dict[str, dict[str, str]], bool]:
    """Open the partial folder; return what its work began with, and whether it is resumed.

    That is `code`, digests by module, and `input_files`, what each input held. Work begun with other code or inputs is
    resumed under `stale=warn` (and stays marked by its first ones), set aside under `rerun`, refused under `error`.
    """
    (partial / "artifact.json").unlink(missing_ok=True)  # of a kill just before the rename
    if (partial / _BEGAN).is_file():
        began = _began(partial)
        if _still_good(partial, _unlike(began, stage, spec, inputs), spec):
            return began, True
        os.rename(partial, _stale_name(partial))
    resumed = partial.exists()
    partial.mkdir(parents=True, exist_ok=True)
    contents = {slot: artifacts.held(ref.path) for slot, ref in inputs.items()}
    artifacts.write_json(partial / _FED, {slot: digest for slot, digest in contents.items() if digest is not None})
    artifacts.write_json(partial / _BEGAN, provenance.code_digests(_modules(stage, spec)))
    return _began(partial), resumed


def _began(partial: Path) -> dict[str, dict[str, str]]:
    """What a partial was begun with; without `input_files` where that was before they were noted."""
    notes = {"code": partial / _BEGAN, "input_files": partial / _FED}
    return {key: json.loads(path.read_bytes()) for key, path in notes.items() if path.is_file()}


def _stale_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.stale-{time.time_ns()}")


def _run_facts(partial: Path) -> dict[str, Any]:
    """Facts that the run left for its provenance (devices, initialisation, data digests)."""
    path = partial / _FACTS
    return json.loads(path.read_bytes()) if path.exists() else {}


def record_facts(out: Path, **facts: Any) -> None:
    """Note facts of a run for its provenance.json."""
    if not is_main_process():
        return
    artifacts.write_json(out / _FACTS, {**_run_facts(out), **facts})


def _still_good(path: Path, unlike: Sequence[str], spec: StageSpec) -> bool:
    """Whether an artifact or a partial is used, by `stale` where something is otherwise now than when it was made."""
    if not unlike:
        return True
    text = f"{path} was made {' and '.join(unlike)}"
    if spec.stale == "error":
        raise UserError(f"{text}. Choose stale=rerun to make it again or stale=warn to use it.")
    print(f"stale: {text} (stale={spec.stale})", flush=True)
    return spec.stale == "warn"


def _unlike(record: Mapping[str, Any], stage: Stage, spec: StageSpec, inputs: Mapping[str, Ref]) -> list[str]:
    """How code and inputs differ from those that an artifact or a partial was made of, in words."""
    changed = _changed(record["code"], stage, spec)
    remade = artifacts.remade(record, {slot: ref.path for slot, ref in inputs.items()})
    words = [f"by other code of: {', '.join(changed)}"] if changed else []
    return words + ([f"before these inputs were made again: {', '.join(remade)}"] if remade else [])


def _changed(code: Mapping[str, str], stage: Stage, spec: StageSpec) -> list[str]:
    now = provenance.code_digests(_modules(stage, spec))
    return sorted(name for name, digest in code.items() if now.get(name) != digest)


def _modules(stage: Stage, spec: StageSpec) -> list[str]:
    return [*stage.code, *(entry.module for entry in spec.selected().values())]


def partial_of(path: Path) -> Path:
    """The folder in which the artifact `path` is being made."""
    return path.with_name(f"{path.name}.partial")
