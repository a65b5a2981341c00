"""The sections of an experiment's page, each from artifacts and tables; a section without anything to say is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ssl_sat
from ssl_sat.artifact import shown
from ssl_sat.graph import dag
from ssl_sat.graph import expected as expectations
from ssl_sat.graph.claim_tables import counted, sentence
from ssl_sat.graph.collect import Finished, group_of
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.tables import Table
from ssl_sat.graph.verdicts import Judged
from ssl_sat.ood.spec import PROBE
from ssl_sat.report.curves import History, curve_data
from ssl_sat.report.html import Page, Prints
from ssl_sat.report.map_page import read_map, within
from ssl_sat.report.tables import Estimate, Value

MOST_BYTES = 15_000_000  # of the page
_FOR_MAPS = 7_000_000  # of thumbnails; as text they take a third more
_KEPT_FREE = 1_500_000  # for what comes after the figures
_MOST_ROWS = 4_000
_MOST_RUNS = 60
_MOST_BANDS = 4  # named in a narrow cell; more are counted
_MOST_POINTS = 20_000
_NOT_AGAIN = {"map", "curves"}  # figures that the page draws itself
_DRAWN = ("ood_eval", "shift_eval", "finetune")  # stages whose figures stand at the end, in this order
_CAUTION = (
    "How to read a map. It shows neighbourhoods and little else: distances between clusters, their sizes and densities "
    "mean nothing, and two clusters that touch may be far apart. Trustworthiness counts neighbours that the map made "
    "up, continuity those that it tore apart; colour by 'neighbours kept' to see where it lies, and hover to see a "
    "patch's true neighbours joined to it by lines, however far away the map has put them. No number in this report is "
    "measured on a map. All panels of one map share one layout: a patch that has moved has moved for its state's sake."
)


def key_numbers(plan: Plan, items: Sequence[Finished]) -> dict[str, Any]:
    """Nodes, seeds, size, time."""
    seeds = {item.node.variables["seed"] for item in items if "seed" in item.node.variables}
    seconds = sum(item.provenance.get("seconds", 0.0) for item in items)
    found = {"nodes done": f"{len(items)} of {len(plan.nodes)}", "seeds": len(seeds) or 1, "size": plan.size}
    hours = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return {**found, "computing time": hours, "data": "synthetic" if any(n.synthetic for n in plan.nodes) else "real"}


def expected(page: Page, plan: Plan, metrics: Mapping[str, Any]) -> None:
    """What was written down before the run beside what was found."""
    held = expectations.read_expected(plan) if plan.graph else {}
    if not held:
        return
    found = expectations.check(held, metrics, expectations.unmeasured(plan))
    page.heading("Expected and found", 3)
    page.table(
        [
            {"metric": f.metric, "expected": f.expected, "found": f.found, "verdict": f.verdict, "why": f.why or None}
            for f in found
        ],
        caption="Written beside the graph before it ran (expected.json), checked after.",
    )


def claims(page: Page, made: Sequence[Table], judged: Sequence[Judged]) -> None:
    """What others have claimed, and what these runs say to it."""
    table = _named(made, "claims")
    if table is None:
        return
    page.heading(f"Claims: {counted(judged)}", 3)
    page.findings([sentence(claim) for claim in judged])
    _table(page, table)


def not_run(page: Page, made: Sequence[Table]) -> None:
    """Rows without numbers, and why."""
    table = _named(made, "not_run")
    if table is not None:
        page.heading(table.title, 3)
        _table(page, table)


def graph(page: Page, plan: Plan) -> None:
    """The graph as a picture."""
    page.drawing(dag.as_svg(plan), f"graph of {len(plan.nodes)} nodes; the table of nodes lists what each needs")


def _table(page: Page, table: Table, left_out: Sequence[str] = ()) -> None:
    columns = [c for c in table.columns if c.key not in left_out and any(r.get(c.key) is not None for r in table.rows)]
    rows = [{column.title: _shown(column.key, row.get(column.key)) for column in columns} for row in table.rows]
    page.table(rows, caption=table.caption, columns=[column.title for column in columns])


def _shown(key: str, value: Value) -> Any:
    if key == "fingerprints" and isinstance(value, str):
        return Prints(tuple(value.split()))
    if key == "bands" and isinstance(value, str) and len(value.split()) > _MOST_BANDS:
        return f"{len(value.split())} bands"
    return value


def _named(made: Sequence[Table], name: str) -> Table | None:
    return next((table for table in made if table.name == name), None)


def classification(page: Page, made: Sequence[Table], drawn: Mapping[str, Path]) -> None:
    """Results, probes, paired comparisons."""
    results, probes, paired = (_named(made, name) for name in ("results", "probes", "paired"))
    if results is not None:
        page.heading(results.title)
        _table(page, results)
        elsewhere = ("auroc", "near_ood")
        _drawn(page, drawn, [n for n in drawn if not n.endswith("_paired") and not n.startswith(elsewhere)])
    if probes is not None:
        page.heading(probes.title, 2 if results is None else 3)
        _table(page, probes)
    if paired is not None:
        page.heading(paired.title, 2 if results is None else 3)
        _table(page, paired)
        _drawn(page, drawn, [name for name in drawn if name.endswith("_paired")])


def _drawn(page: Page, drawn: Mapping[str, Path], names: Sequence[str]) -> None:
    for name in names:
        page.image(drawn[name], alt=name.replace("_", " "), caption="Mean and 95 % interval, seeds as dots.")


def ood(page: Page, made: Sequence[Table], drawn: Mapping[str, Path]) -> None:
    """Detectors beside the shortcut probe."""
    table = _named(made, "ood")
    if table is None:
        return
    near = _named(made, "near_ood")
    if near is not None:
        page.heading(near.title, new_page=True)
        _table(page, near)
        for name in [name for name in drawn if name.startswith("near_ood")]:
            page.image(drawn[name], alt="AUROC by detector and held-out class", caption="AUROC by held-out class.")
    page.heading(table.title, new_page=True)
    _table(page, table)
    worst = [r for r in table.rows if r["detector"] == PROBE.replace("_", " ") and _number(r["auroc"]) > 0.95]
    if worst:
        names = ", ".join(dict.fromkeys(str(row["runs"]) for row in worst))
        page.text(f"The probe alone reaches more than 0.95 for {names}: the two sets differ in plain colour.", "note")
    _drawn(page, drawn, ["auroc"] if "auroc" in drawn else [])
    joined = _named(made, "ood_joined")
    if joined is not None:
        page.heading(joined.title, 3)
        _table(page, joined)


def figures(page: Page, items: Sequence[Finished]) -> None:
    """Figures of the artifacts: evaluations first, then fine-tuned models; what has no room is named."""
    drawn = [item for item in items if item.node.stage in _DRAWN]
    if any(item.path.glob("*.png") for item in drawn):
        page.heading("Figures", new_page=True)
        _gallery(page, sorted(drawn, key=lambda item: _DRAWN.index(item.node.stage)))


def _number(value: Any) -> float:
    return value.value if isinstance(value, Estimate) else float(value or 0.0)


def pretraining(page: Page, items: Sequence[Finished], made: Sequence[Table]) -> None:
    """Probes of pretrained encoders and what they cost."""
    table = _named(made, "pretraining")
    if table is not None:
        page.heading(table.title, new_page=True)
        _table(page, table)
    figures = [item for item in items if item.node.stage == "pretrain"]
    if table is not None and figures:
        _gallery(page, figures)


def maps(page: Page, items: Sequence[Finished]) -> None:
    """Maps to look into: of the first seed of each group, as many as the page has room for."""
    found = [item for item in _first_seeds(items) if (item.path / "map.json").is_file()]
    if not found:
        return
    page.heading("Maps of features", new_page=True)
    page.text(_CAUTION, "note")
    small = [item for item in found if _points(item) <= _MOST_POINTS]
    kept, _ = within([read_map(item.path) for item in small], _FOR_MAPS)
    for item, drawn in zip(small, kept, strict=False):
        method = {"umap": "UMAP", "pca": "Principal components", "tsne": "t-SNE"}[item.node.config["method"]]
        page.heading(f"{method} of {item.node.id}", 3)
        page.map(drawn.data, drawn.sheets, item.path / "map.png")
        page.table([_map_row(item)], caption="Measured on all points of this map, in all dimensions of the features.")
        page.image(item.path / "neighbours.png", alt="share of neighbours kept", caption="Neighbours kept, by number.")
    for item in [item for item in found if item not in small[: len(kept)]]:
        page.text(f"No room for {item.node.id}: its figure is {shown(item.path / 'map.pdf')}.", "note")


def _points(item: Finished) -> int:
    return int(item.metrics.get("n_id", 0)) + int(item.metrics.get("n_ood", 0))


def _map_row(item: Finished) -> dict[str, Any]:
    metrics = item.metrics
    last = str(metrics["states"]).split(",")[-1]
    names = {
        "same class, features": f"{last}_same_class_features", "same class, map": f"{last}_same_class_map",
        "ID among OOD's neighbours, features": f"{last}_id_among_ood_features",
        "ID among OOD's neighbours, map": f"{last}_id_among_ood_map",
    }  # fmt: skip
    row: dict[str, Any] = {"points": _points(item), "neighbours": metrics["neighbours"]}
    row |= {name: metrics.get(key) for name, key in names.items()}
    moved = {f"moved to {name}": metrics.get(f"{name}_moved") for name in str(metrics["states"]).split(",")[1:]}
    return {**row, **moved, "fingerprint": Prints((item.short,))}


def curves(page: Page, items: Sequence[Finished]) -> None:
    """Histories of the runs, a widget a stage."""
    runs = [item for item in items if (item.path / "history.jsonl").is_file()]
    if not runs:
        return
    page.heading("Curves")
    for stage in dict.fromkeys(item.node.stage for item in runs):
        own = [item for item in runs if item.node.stage == stage]
        page.heading(stage, 3)
        if len(own) > _MOST_RUNS:
            page.text(f"{len(own)} runs are too many for one drawing; shown are the first {_MOST_RUNS}.")
        histories = [History(i.node.id, group_of(i.node), i.short, i.path / "history.jsonl") for i in own[:_MOST_RUNS]]
        page.curves(curve_data(histories))


def _first_seeds(items: Sequence[Finished]) -> list[Finished]:
    first: dict[str, Finished] = {}
    for item in items:
        first.setdefault(group_of(item.node), item)
    return list(first.values())


def _gallery(page: Page, items: Sequence[Finished]) -> None:
    """Figures of the first seed of each group, as long as there is room."""
    left_out = []
    for item in _first_seeds(items):
        paths = [path for path in sorted(item.path.glob("*.png")) if path.stem not in _NOT_AGAIN]
        size = sum(path.stat().st_size for path in paths) * 4 // 3
        if not paths:
            continue
        if page.size + size > MOST_BYTES - _KEPT_FREE:
            left_out.append(item.node.id)
            continue
        page.heading(f"Figures of {item.node.id}", 3)
        page.gallery(
            [
                (p, f"{item.node.id}: {p.stem.replace('_', ' ')}", f"{p.stem.replace('_', ' ')} ({item.short})")
                for p in paths
            ]
        )
    if left_out:
        page.text(
            f"No room on this page for the figures of {', '.join(left_out)}; they lie in their artifacts.", "note"
        )


def nodes(page: Page, plan: Plan, items: Sequence[Finished]) -> None:
    """Every node with its artifact: what fingerprints lead to."""
    page.heading("Nodes", new_page=True)
    seconds = {item.node.id: item.provenance.get("seconds") for item in items}
    rows = [
        {
            "node": node.id, "stage": node.stage, "state": node.state, "fingerprint": node.fingerprint[:8],
            "artifact": shown(Path(node.artifact)), "seconds": _rounded(seconds.get(node.id)),
            "needs": ", ".join(node.needs.values()) or None, "overrides": " ".join(node.overrides) or None,
            "whole fingerprint": node.fingerprint,
        }
        for node in plan.nodes
    ]  # fmt: skip
    page.table(
        rows,
        caption="`python -m ssl_sat.verify <artifact>` checks one; with --replay it is run again and compared.",
        anchors=[f"fp-{node.fingerprint[:8]}" for node in plan.nodes],
    )


def _rounded(value: Any) -> int | None:
    return None if value is None else round(float(value))


def provenance(page: Page, items: Sequence[Finished]) -> None:
    """Commits, versions, machines."""
    page.heading("Provenance")
    git = [item.provenance.get("git") or {} for item in items]
    versions: dict[str, set[str]] = {"ssl_sat (this report)": {ssl_sat.__version__}}
    for item in items:
        for name, version in item.provenance.get("versions", {}).items():
            versions.setdefault(name, set()).add(str(version))
    page.facts(
        {
            "commits": _joined(state.get("commit") for state in git),
            "uncommitted changes": _joined((state.get("diff_sha256") or "none")[:8] for state in git if state),
            "python": _joined(item.provenance.get("python") for item in items),
            "platforms": _joined(item.provenance.get("platform") for item in items),
            "torch threads": _joined(_threads(item) for item in items),
            "seconds in all": round(sum(item.provenance.get("seconds", 0.0) for item in items), 1),
            **{name: _joined(found) for name, found in versions.items()},
        }
    )


def _threads(item: Finished) -> Any:
    device = item.provenance.get("device")
    return device.get("torch_threads") if isinstance(device, dict) else item.provenance.get("torch_threads")


def _joined(values: Any) -> str:
    return ", ".join(sorted({str(value) for value in values if value is not None})) or "unknown"


def all_metrics(page: Page, items: Sequence[Finished]) -> None:
    """Everything, where it is not too much for a page; tables/numbers.csv holds it in any case."""
    rows = [
        {"node": item.node.id, "metric": name, "value": value, "fingerprint": Prints((item.short,))}
        for item in items
        for name, value in item.metrics.items()
    ]
    page.heading("All metrics", new_page=True)
    if len(rows) > _MOST_ROWS:
        page.text(f"{len(rows):,} numbers are too many for a page: tables/numbers.csv and .parquet hold them all.")
        return
    page.table(rows, caption="The same, with what each is about, is in tables/numbers.csv and .parquet.")
