"""How long what is left will take, from what earlier nodes took: their provenance, their epochs, their patches."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ssl_sat.artifact import write_json
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.progress import clock

_FINGERPRINT = re.compile(r"-[0-9a-f]{8}$")
_SEED = re.compile(r"-s\d+(?=-|$)")
LIKE, ENCODER, STAGE = "of the same kind", "of the same stage and encoder", "of the same stage"


@dataclass(frozen=True)
class Run:
    """A finished run: its kind (the readable name without its seed), and seconds for epochs over patches.

    epochs, patches: None where they are not known, or where the stage has no such thing.
    """

    stage: str
    kind: str
    image_size: int | None
    epochs: float | None
    patches: float | None
    seconds: float


@dataclass(frozen=True)
class Guess:
    """Seconds for a node, by how many runs of what nearness."""

    seconds: float
    basis: str
    runs: int


def guesses(plan: Plan) -> dict[str, Guess]:
    """A guess for each node that is left, where anything is known."""
    left = [node for node in plan.nodes if not node.done]
    runs = _runs(Path(plan.outputs), {node.stage for node in left})
    found = {node.id: _guess(plan, node, runs) for node in left}
    return {name: guess for name, guess in found.items() if guess is not None}


def _guess(plan: Plan, node: Node, runs: Sequence[Run]) -> Guess | None:
    me = _described(node.stage, Path(node.artifact).name, node.config, _patches(plan, node), 0.0)
    own = [run for run in runs if run.stage == me.stage]
    levels = (
        (LIKE, [run for run in own if (run.kind, run.image_size) == (me.kind, me.image_size)]),
        (ENCODER, [run for run in own if _encoder(run.kind) == _encoder(me.kind) and run.image_size == me.image_size]),
        (STAGE, own),
    )
    for basis, members in levels:
        known = [seconds for seconds in (_scaled(run, me) for run in members) if seconds is not None]
        if known:
            return Guess(statistics.median(known), basis, len(known))
    return None


def _scaled(run: Run, me: Run) -> float | None:
    """Time grows with epochs times patches; of the same encoder with epochs alone, where patches are not known.

    None where a run says nothing of this one: training whose epochs are not known, or another encoder's whose patches
    are not. Stages without epochs take the time as it is.
    """
    if run.epochs is None and me.epochs is None:
        return run.seconds
    if not run.epochs or not me.epochs:
        return None
    if run.patches and me.patches:
        return run.seconds * me.epochs * me.patches / (run.epochs * run.patches)
    return run.seconds * me.epochs / run.epochs if _encoder(run.kind) == _encoder(me.kind) else None


def _encoder(kind: str) -> str:
    return kind.partition("-")[0]


def _described(stage: str, name: str, config: Mapping[str, Any], patches: float | None, seconds: float) -> Run:
    kind = _SEED.sub("", _FINGERPRINT.sub("", name))
    return Run(stage, kind, config.get("image_size"), _epochs(config), patches, seconds)


def _epochs(config: Mapping[str, Any]) -> float | None:
    if isinstance(config.get("epochs"), (int, float)):
        return float(config["epochs"])
    phases = config.get("phases")
    steps = phases.get("steps", {}) if isinstance(phases, Mapping) else {}
    return sum(float(step.get("epochs") or 0) for step in steps.values()) or None


def _patches(plan: Plan, node: Node) -> float | None:
    """Training patches of a planned node: its subset, or what a finished pack holds."""
    subset = node.config.get("subset")
    if isinstance(subset, Mapping) and isinstance(subset.get("patches"), int):
        return float(subset["patches"])
    pack = node.config.get("pack")
    metrics = _read(Path(pack) / "metrics.json") if pack else {}
    found = metrics.get("n_train") or metrics.get("n")
    share = subset.get("fraction") if isinstance(subset, Mapping) else None
    return float(found) * float(share or 1.0) if found else None


def _runs(outputs: Path, stages: set[str]) -> list[Run]:
    """Finished runs under outputs; one that was resumed tells the time of its last part alone and is left out."""
    file = outputs / ".graph" / "times.json"
    kept: dict[str, Any] = _read(file)
    columns = {field.name for field in fields(Run)}
    known = {name: values for name, values in kept.items() if values is None or {*values} == columns}
    for path in (p for stage in sorted(stages) for p in (outputs / stage).glob("*-????????/provenance.json")):
        name = f"{path.parent.parent.name}/{path.parent.name}"
        if name not in known and (path.parent / "artifact.json").is_file():
            run = _finished(path.parent)
            known[name] = asdict(run) if run else None
    if known != kept and file.parent.is_dir():
        write_json(file, known)
    return [Run(**values) for values in known.values() if values]


def _finished(folder: Path) -> Run | None:
    facts, metrics, config = (_read(folder / f"{name}.json") for name in ("provenance", "metrics", "config"))
    if facts.get("resumed") or not isinstance(facts.get("seconds"), (int, float)):
        return None
    patches = metrics.get("train_patches") or metrics.get("patches")
    return _described(folder.parent.name, folder.name, config, patches, float(facts["seconds"]))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def in_words(plan: Plan, found: Mapping[str, Guess], jobs: int) -> str:
    """`about 1:20:00 to come with jobs=2 (5 nodes of the same kind as earlier ones, 1 unknown)`."""
    left = [node for node in plan.nodes if not node.done]
    if not left:
        return "nothing is left to do"
    counts = {basis: sum(guess.basis == basis for guess in found.values()) for basis in (LIKE, ENCODER, STAGE)}
    parts = [f"{count} by runs {basis}" for basis, count in counts.items() if count]
    unknown = len(left) - len(found)
    if not found:
        return f"no estimate: no run of {'these stages' if unknown > 1 else 'this stage'} was finished before"
    parts += [f"{unknown} unknown and not counted"] if unknown else []
    about = clock(duration(plan, found, jobs))
    return f"about {about} to come with {jobs} at a time ({len(left)} nodes: {', '.join(parts)})"


def duration(plan: Plan, found: Mapping[str, Guess], jobs: int) -> float:
    """Seconds until the last node is made when `jobs` run at a time, each as soon as it can, in the plan's order."""
    ends: dict[str, float] = {}
    free = [0.0] * jobs
    for node in plan.nodes:
        if node.done:
            continue
        ready = max((ends.get(need, 0.0) for need in node.needs.values()), default=0.0)
        worker = min(range(jobs), key=lambda at: max(free[at], ready))
        begin = max(free[worker], ready)
        ends[node.id] = free[worker] = begin + (found[node.id].seconds if node.id in found else 0.0)
    return max(ends.values(), default=0.0)
