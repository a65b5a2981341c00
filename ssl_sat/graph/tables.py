"""An experiment's numbers as tables, nobody having typed one: tidy, over seeds, paired; CSV, Parquet, Markdown, LaTeX.

    numbers      one row a node and metric: value, interval, n, what it is about, fingerprint, artifact
    results      one row a group: accuracy and the rest over seeds
    ood          one row a group and detector
    paired       one row a pair of groups and metric: the difference of runs that share a seed
    probes       one row a group: frozen features of the start and of the end of fine-tuning
    pretraining  probes before and after, cost beside SimCLR's

An interval is Student's over seeds; for a single seed that of its own patches, and the column `interval` says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssl_sat.graph.about import about
from ssl_sat.graph.collect import Finished, group_of, over_seeds
from ssl_sat.graph.ood import ood_tables
from ssl_sat.graph.paired import paired_rows
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.pretraining import pretraining_rows
from ssl_sat.ood.spec import PROBE
from ssl_sat.report.tables import Column, Estimate, Value, write_tables

Row = dict[str, Value]
_SUFFIXES = (".csv", ".md", ".parquet", ".tex")
_ENDS = ("_low", "_high")
CLASSIFICATION = ("test_accuracy", "test_map_macro", "test_macro_f1", "test_nll", "test_ece")
DETECTION = ("auroc", "gain_over_probe", "aupr_out", "fpr_id_at_95tpr_ood")
_RUNS = Column("runs", "runs")
_LAST = (
    Column("seeds", "seeds"), Column("n", "n"), Column("interval", "95 % interval"), Column("encoder", "encoder"),
    Column("initialisation", "initialisation"), Column("bands", "bands"), Column("data", "data"),
    Column("budget", "budget"), Column("fingerprints", "fingerprints"),
)  # fmt: skip
_NUMBERS = (
    "experiment", "node", "group", "stage", "seed", "encoder", "initialisation", "bands", "data", "ood_data",
    "pretrain_epochs", "pretrain_patches", "finetune_epochs", "train_patches", "label_share", "metric", "value", "text",
    "low", "high", "n", "synthetic", "fingerprint", "artifact",
)  # fmt: skip


class Table(NamedTuple):
    """Rows with their columns in order; estimates carry their interval. title heads it, caption explains it."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: list[Row]


def numbers(plan: Plan, items: Sequence[Finished]) -> list[dict[str, Any]]:
    """One row a node and metric. A number is in `value`, anything else in `text`; n is that of the metric's split."""
    by_id = {item.node.id: item for item in items}
    rows = []
    for item in items:
        found = about(item, by_id)
        fixed = {
            "experiment": plan.name, "node": item.node.id, "group": group_of(item.node), "stage": item.node.stage,
            "seed": item.node.config.get("seed"), "encoder": found.encoder, "initialisation": found.initialisation,
            "bands": found.bands, "data": found.data, "ood_data": found.ood_data,
            "pretrain_epochs": found.pretrain_epochs, "pretrain_patches": found.pretrain_patches,
            "finetune_epochs": found.finetune_epochs, "train_patches": found.train_patches,
            "label_share": found.label_share, "synthetic": item.node.synthetic,
            "fingerprint": item.node.fingerprint, "artifact": item.node.artifact,
        }  # fmt: skip
        for name, value in item.metrics.items():
            number = float(value) if isinstance(value, (int, float)) else None
            low, high = (item.metrics.get(f"{name}{end}") for end in _ENDS)
            text = None if value is None or number is not None else str(value)
            rows.append(
                {**fixed, "metric": name, "value": number, "text": text, "low": low, "high": high, "n": _n(item, name)}
            )
    return rows


def _n(item: Finished, metric: str) -> int | None:
    """How many patches a metric is over."""
    split = metric.partition("_")[0]
    if f"{split}_n" in item.metrics and metric != f"{split}_n":
        return int(item.metrics[f"{split}_n"])
    detector = next((name for name in _detectors(item) if metric.startswith(f"{name}_")), None)
    if detector is None:
        return None
    counts = [item.metrics.get(f"{detector}_n_{side}", item.metrics.get(f"n_{side}")) for side in ("id", "ood")]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _detectors(item: Finished) -> list[str]:
    """Detectors that a node measured, the probe last; groups of OOD patches (`detector@group`) apart."""
    names = [name.removesuffix("_auroc") for name in item.metrics if name.endswith("_auroc")]
    return sorted(names, key=lambda name: (name.startswith(PROBE), name))


def is_part(detector: str) -> bool:
    """Whether a detector's numbers are of a group of the OOD patches, and not of all."""
    return "@" in detector


def tables(items: Sequence[Finished]) -> list[Table]:
    """Those that the experiment has rows for."""
    own = [Table(*table) for table in ood_tables(items)]
    made = [_results(items), _probes(items), _ood(items), *own, paired_table(items), _pretraining(items)]
    return [table for table in made if table.rows]


def _groups(items: Sequence[Finished]) -> dict[str, list[Finished]]:
    groups: dict[str, list[Finished]] = {}
    for item in items:
        groups.setdefault(group_of(item.node), []).append(item)
    return groups


def _results(items: Sequence[Finished]) -> Table:
    titles = ("accuracy", "mAP", "macro F1", "NLL", "ECE")
    measures = [(title, (name,)) for title, name in zip(titles, CLASSIFICATION, strict=True)]
    caption = "Classification on the test split, measured once, after training. n is the number of test patches."
    return _measured("results", "Classification", caption, items, measures, CLASSIFICATION[:2])


def _probes(items: Sequence[Finished]) -> Table:
    measures = [
        (f"{label}, {of}", tuple(f"{when}_{probe}_{metric}" for metric in ("accuracy", "map_macro")))
        for when, of in (("start", "start"), ("tuned", "end"))
        for probe, label in (("knn", "kNN"), ("linear_probe", "linear"))
    ]
    caption = (
        "20 nearest neighbours and a linear probe on frozen features of the encoder as fine-tuning found it and as it "
        "left it: accuracy, with several labels mean average precision. n is the number of test patches."
    )
    return _measured("probes", "Frozen features", caption, items, measures, measures[0][1])


def _measured(
    name: str, title: str, caption: str, items: Sequence[Finished], measures: Sequence[tuple[str, tuple[str, ...]]],
    needed: Sequence[str],
) -> Table:  # fmt: skip
    """A row a group whose runs have one of the metrics `needed`; of each measure's metrics the first that is there."""
    by_id = {item.node.id: item for item in items}
    rows = []
    for group, members in _groups([item for item in items if set(needed) & item.metrics.keys()]).items():
        found = {names[0]: [estimate(members, n) for n in names if n in members[0].metrics] for _, names in measures}
        values = {key: next(iter(there), None) for key, there in found.items()}
        rows.append({**_about(group, members, by_id), **values, "n": members[0].metrics.get("test_n")})
    columns = (_RUNS, *(Column(names[0], label, 4) for label, names in measures), *_LAST)
    return Table(name, title, caption, columns, rows)


def _ood(items: Sequence[Finished]) -> Table:
    by_id = {item.node.id: item for item in items}
    rows = []
    for group, members in _groups([i for i in items if _detectors(i)]).items():
        for detector in _detectors(members[0]):
            values = {name: estimate(members, f"{detector}_{name}") for name in DETECTION}
            sets = {"n": _n(members[0], f"{detector}_auroc"), "ood_data": members[0].metrics.get("ood_data")}
            own = {"detector": detector.replace("_", " "), **sets, **values}
            rows.append({**_about(group, members, by_id), **own})
    measures = (
        Column("auroc", "AUROC", 4), Column("gain_over_probe", "gain over the probe", 4, signed=True),
        Column("aupr_out", "AUPR-out", 4), Column("fpr_id_at_95tpr_ood", "FPR at 95 % TPR", 4),
    )  # fmt: skip
    columns = (_RUNS, Column("detector", "detector"), *measures, Column("ood_data", "against"), *_LAST)
    caption = (
        "Every score is higher for more out-of-distribution. The shortcut probe sees twelve image statistics and no "
        "network: a detector that does not beat it has shown nothing about the network. n counts both sets."
    )
    return Table("ood", "Out of distribution", caption, columns, rows)


def _pretraining(items: Sequence[Finished]) -> Table:
    rows = pretraining_rows(items)
    columns = tuple(Column(name, name, 3) for name in (rows[0] if rows else ()))
    caption = (
        "Probes on frozen features of the watched set, before and after; over seeds: mean ± sample standard "
        "deviation. Cost: seconds an image over those of SimCLR with the same encoder, data and machine."
    )
    return Table("pretraining", "Pretraining", caption, columns, rows)


def paired_table(items: Sequence[Finished]) -> Table:
    """Differences of groups over the seeds that they share."""
    columns = (
        Column("metric", "metric"), Column("first", "first"), Column("second", "second"),
        Column("difference", "first − second", 4, signed=True), Column("seeds", "seeds"),
        Column("p", "p", 4, floor=True), Column("p_holm", "p (Holm)", 4, floor=True),
        Column("detectable", "detectable", 4), Column("verdict", "verdict"), Column("fingerprints", "fingerprints"),
    )  # fmt: skip
    caption = (
        "Runs that share a seed, compared with one another: mean difference with Student's t interval over seeds. "
        "Holm: adjusted for all comparisons by one metric. Detectable: the smallest true difference that so many "
        "seeds and patches show with probability .80; what is smaller has been left open, not disproved."
    )
    return Table("paired", "Paired comparisons", caption, columns, paired_rows(items))


def _about(group: str, members: Sequence[Finished], by_id: Mapping[str, Finished]) -> Row:
    found = about(members[0], by_id)
    one = "patches, one seed" if len(members) == 1 else f"t over {len(members)} seeds"
    return {
        "runs": group, "encoder": found.encoder, "initialisation": found.initialisation, "bands": found.bands,
        "data": found.data, "seeds": len(members), "interval": one, "budget": found.budget,
        "fingerprints": " ".join(member.short for member in members),
    }  # fmt: skip


def estimate(members: Sequence[Finished], metric: str) -> Value:
    """Mean over seeds with its interval; of one seed its value with the interval over patches, where it has one."""
    if any(not isinstance(member.metrics.get(metric), (int, float)) for member in members):
        return None
    if len(members) == 1:
        value, low, high = (members[0].metrics.get(f"{metric}{end}") for end in ("", *_ENDS))
        return Estimate(value, low, high) if low is not None and high is not None else float(value)  # type: ignore[arg-type]
    from ssl_sat.evaluation.detectable import mean_of

    found = mean_of([float(member.metrics[metric]) for member in members])
    half = found.half_width or 0.0
    return Estimate(found.mean, found.mean - half, found.mean + half)


def write(folder: Path, plan: Plan, items: Sequence[Finished], made: Sequence[Table]) -> None:
    """Write every table into a folder: .csv and .parquet of all, .md and .tex of those to print."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"numbers", *(table.name for table in made)}
    for path in [path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.stem not in kept]:
        path.unlink()  # of an earlier state of the experiment
    tidy = numbers(plan, items)
    tidy_columns = [Column(name, name) for name in _NUMBERS]
    (folder / "numbers.csv").write_text(_csv(tidy_columns, tidy), encoding="utf-8")
    _parquet(folder / "numbers.parquet", tidy_columns, tidy)
    for table in made:
        write_tables(folder / table.name, table.columns, table.rows, table.caption)
        _parquet(folder / f"{table.name}.parquet", table.columns, table.rows)


def _csv(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    from ssl_sat.report.tables import csv_text

    return csv_text(columns, rows)


def _parquet(path: Path, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    """The columns of the CSV with their types: an estimate takes three."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays: dict[str, Any] = {}
    for column in columns:
        values = [row.get(column.key) for row in rows]
        if any(isinstance(value, Estimate) for value in values):
            wide = [v if isinstance(v, Estimate) else Estimate(v, None, None) for v in values]  # type: ignore[arg-type]
            arrays[column.key] = pa.array([v.value for v in wide], pa.float64())
            arrays[f"{column.key}_low"] = pa.array([v.low for v in wide], pa.float64())
            arrays[f"{column.key}_high"] = pa.array([v.high for v in wide], pa.float64())
        elif any(isinstance(value, float) for value in values):
            arrays[column.key] = pa.array(values, pa.float64())
        else:
            arrays[column.key] = pa.array(values)
    pq.write_table(pa.table(arrays), path)


def spread_rows(items: Sequence[Finished], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Mean, deviation and range over seeds, in full; for the page's folded tables."""
    return [
        {"runs": s.group, "metric": s.metric, "seeds": s.n, "mean": s.mean, "sd over seeds": s.sd, "min": s.low,
         "max": s.high, "fingerprints": s.fingerprints}
        for s in over_seeds(items, metrics)
    ]  # fmt: skip
