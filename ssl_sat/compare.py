"""Compare fine-tuned models: what each reached and cost, with intervals, and which differences could have been seen.

    python -m ssl_sat.compare                                            # all that outputs/finetune holds
    python -m ssl_sat.compare runs='outputs/finetune/*resnet18*'
    python -m ssl_sat.compare graph=demo                                  # the runs of an experiment
    python -m ssl_sat.compare sensitivity=phases.steps.all.lr             # the metric over a swept key

Runs that differ by their seeds alone are one row. Differences are paired by seed, and each stands beside the smallest
one that its seeds and test patches could have shown. Writes comparison.md, .csv, .png; test metrics alone are compared.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from ssl_sat.artifact import Artifact, Ref, outputs_of
from ssl_sat.finetune import FINETUNE
from ssl_sat.pack import PACK
from ssl_sat.pretrain import PRETRAIN
from ssl_sat.spec import ConfigError, MissingInput, Spec, is_runtime, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec, execute

_RUNTIME = ("outputs", "stale", "data", "pack", "trainer", "weights", "init")  # of a config that cannot be parsed


class CompareSpec(StageSpec):
    """Which runs, by what. The runs themselves enter the fingerprint as inputs."""

    runs: tuple[str, ...] | None = runtime(None)
    graph: str | None = runtime(None)
    where: tuple[str, ...] = runtime(())
    metric: str | None = None
    sensitivity: str | None = None
    flops: bool = True
    throughput_s: float = Field(1.0, ge=0)
    batch_size: int = Field(32, ge=1)
    device: str = runtime("auto")
    threads: int | None = runtime(None, ge=1)
    to: str | None = runtime(None)

    @field_validator("runs", "where", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):  # `=` and `*` are no part of
            return tuple(part.strip() for part in value[1:-1].split(",") if part.strip())  # Hydra's lists
        return (value,) if isinstance(value, str) else value


def run(spec: CompareSpec, inputs: Inputs, out: Path) -> Metrics:
    """Group, measure costs, write tables and figures; return flat metrics."""
    from ssl_sat.evaluation import comparison, runs
    from ssl_sat.report import comparison_files

    found = [runs.read_run(artifact, science_of) for artifact in inputs.values()]
    groups = runs.grouped(found)
    metric = comparison.metric_of(found, spec.metric)
    if spec.sensitivity is not None:
        runs.check_key(spec.sensitivity, found, "sensitivity")
    rows = [
        comparison.group_row(
            group, metric, comparison_files.cost_of(group, spec), str(group.runs[0].config["data.name"])
        )
        for group in groups
    ]
    differences = comparison.differences(groups, metric)
    demo = any(item.synthetic for item in inputs.values())
    comparison_files.write(out, rows, groups, differences, metric, spec.sensitivity, demo)
    return comparison.flat_metrics(rows, differences, metric)


def science_of(artifact: Artifact) -> dict[str, Any]:
    """The part of an artifact's configuration that decides its result, by the names of its fields.

    Of a configuration that this version cannot read (of another one), all but what is known to be runtime.
    """
    stage = {stage.name: stage for stage in (FINETUNE, PRETRAIN, PACK)}[artifact.stage]
    try:
        found: dict[str, Any] = _named(stage.spec.parse(artifact.config))
    except ConfigError:
        found = {
            key: value for key, value in artifact.config.items() if artifact.stage == "pack" or key not in _RUNTIME
        }
    return {**found, "data": found["data"]} if artifact.stage == "pack" else found


def _named(value: Any) -> Any:
    if isinstance(value, Spec):
        fields = type(value).model_fields
        return {name: _named(getattr(value, name)) for name, field in fields.items() if not is_runtime(field)}
    if isinstance(value, Mapping):
        return {str(key): _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, (list, tuple)) else value


def _inputs(spec: CompareSpec, lookup: Lookup) -> dict[str, Ref]:
    from ssl_sat.evaluation import runs

    if spec.graph is not None:
        paths = _of_graph(spec.graph, lookup.outputs)
    elif spec.runs is not None:
        paths = _of_patterns(spec.runs)
    else:
        paths = [artifact.path for artifact in outputs_of("finetune", lookup.outputs)]
    artifacts = {a.fingerprint: a for a in map(Artifact.open, paths) if a.stage == "finetune"}
    if not artifacts:
        raise MissingInput("no fine-tuned artifacts to compare. Make some: python -m ssl_sat.finetune, or name them: "
                           "runs='outputs/finetune/*'")  # fmt: skip
    tested = [runs.read_run(a, science_of) for a in artifacts.values() if "test_n" in a.metrics]
    for artifact in artifacts.values():
        if "test_n" not in artifact.metrics:
            print(f"compare: {artifact.path.name} is left out: it has no test split, so no result", flush=True)
    chosen = sorted(run.fingerprint for run in runs.kept(tested, spec.where))
    if not chosen:
        raise MissingInput(
            f"none of {len(artifacts)} fine-tuned artifacts is left to compare (where={list(spec.where)})."
        )
    return {f"run{at:03d}": artifacts[fingerprint].ref for at, fingerprint in enumerate(chosen)}


def _of_patterns(patterns: Sequence[str]) -> list[Path]:
    """Finished artifacts behind paths and patterns; partial folders that a pattern meets are passed over."""
    found: list[Path] = []
    for pattern in patterns:
        paths = sorted(Path(path) for path in glob.glob(str(Path(pattern).expanduser())))
        if not paths:
            raise MissingInput(f"runs: nothing is called '{pattern}'")
        found += [p for p in paths if (p / "artifact.json").is_file() or (len(paths) == 1 and pattern == str(p))]
    return found


def _of_graph(name: str, outputs: Path) -> list[Path]:
    """The finished fine-tuned artifacts of an experiment, from its plan."""
    folder = outputs / ".graph"
    path = folder / name / "plan.json"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in folder.glob("*/plan.json"))) or "none"
        raise MissingInput(f"no experiment '{name}' was run under {outputs} (there are: {known}). "
                           f"Run it: python -m ssl_sat.experiment name={name}")  # fmt: skip
    plan = json.loads(path.read_text())
    paths = [Path(plan["cwd"]) / node["artifact"] for node in plan["nodes"] if node["stage"] == "finetune"]
    return [path for path in paths if (path / "artifact.json").is_file()]


def _choices(spec: CompareSpec, inputs: Mapping[str, Ref]) -> str:
    over = f"over-{spec.sensitivity}" if spec.sensitivity else "compared"
    return f"{len(inputs)}-runs-{over}"


COMPARE = Stage(
    "compare",
    1,
    CompareSpec,
    run,
    _choices,
    _inputs,
    headline=lambda metrics: [f"{metrics['runs']} runs in {metrics['groups']} rows, by {metrics['metric']}"],
    code=(
        "ssl_sat.evaluation.runs",
        "ssl_sat.evaluation.comparison",
        "ssl_sat.evaluation.detectable",
        "ssl_sat.evaluation.cost",
        "ssl_sat.evaluation.multilabel",
        "ssl_sat.report.comparison_files",
        "ssl_sat.report.comparison_figures",
    ),
)


def task(spec: CompareSpec) -> None:
    """Make or find the artifact, show its tables, put copies where `to` says."""
    artifact = execute(COMPARE, spec)
    print((artifact.path / "comparison.txt").read_text(), flush=True)
    if spec.to is not None:
        import shutil

        to = Path(spec.to).expanduser()
        to.mkdir(parents=True, exist_ok=True)
        for path in sorted(artifact.path.iterdir()):
            if path.suffix in (".md", ".csv", ".png", ".pdf"):
                shutil.copyfile(path, to / path.name)
        print(f"  copies: {to}", flush=True)


if __name__ == "__main__":
    from ssl_sat import config

    config.run("compare", CompareSpec, task)
