"""The report of an experiment: one self-contained page, and its numbers as one flat metrics.json.

Every number comes from an artifact's metrics.json and stands beside that artifact's fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ssl_sat
from ssl_sat import provenance
from ssl_sat.artifact import write_json
from ssl_sat.graph.collect import Finished, Spread, collect, flat_metrics, group_of, model_card, over_seeds
from ssl_sat.graph.ood import write_ood
from ssl_sat.graph.plan import Plan
from ssl_sat.graph.pretraining import MEASURES, as_markdown, pretraining_rows
from ssl_sat.report.html import Page
from ssl_sat.spec import WeightsAbsent

_ACCURACY = ("test_accuracy", "test_macro_f1", "test_nll", "test_ece")
_OOD = ("gain_over_probe", "aupr_out", "fpr_id_at_95tpr_ood", "orientation")
_MOST_BANDS = 4  # named in a narrow cell; more are counted
_MOST_FIGURES = 40
_CODE = (
    "ssl_sat.graph.report",
    "ssl_sat.graph.collect",
    "ssl_sat.graph.ood",
    "ssl_sat.graph.pretraining",
    "ssl_sat.report.html",
)


def write_report(plan: Plan) -> Path:
    """Write `outputs/reports/<name>/report.html` and metrics.json unless they are of this state; return the page."""
    folder = Path(plan.outputs) / "reports" / plan.name
    page, digest = folder / "report.html", _digest(plan)
    made_of = plan.folder / "report.json"
    if page.is_file() and (folder / "metrics.json").is_file() and _recorded(made_of) == digest:
        return page
    items = collect(plan)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", flat_metrics(plan, items))
    if rows := pretraining_rows(items):
        (folder / "pretraining.md").write_text(as_markdown(rows))
    chosen = write_ood(folder, items, plan.name, plan.demo or any(n.synthetic for n in plan.nodes))
    build_page(plan, items, folder, chosen).write(page)
    made_of.parent.mkdir(parents=True, exist_ok=True)
    write_json(made_of, {"digest": digest})
    return page


def _digest(plan: Plan) -> str:
    state = [plan.question, plan.absent, *([n.id, n.fingerprint, n.state, n.artifact] for n in plan.nodes)]
    return hashlib.sha256(json.dumps([state, provenance.code_digests(_CODE)]).encode()).hexdigest()


def _recorded(path: Path) -> str | None:
    return json.loads(path.read_text())["digest"] if path.is_file() else None


def build_page(plan: Plan, items: Sequence[Finished], folder: Path = Path(), chosen: Sequence[str] = ()) -> Page:
    """Put the page together: numbers first, where they come from after. folder: that of `write_ood`."""
    page = Page(f"Experiment {plan.name}", plan.question, demo=plan.demo or any(n.synthetic for n in plan.nodes))
    if len(items) < len(plan.nodes):
        page.warning(f"Unfinished: {len(items)} of {len(plan.nodes)} nodes are done; the tables hold those alone.")
    for name, reason in plan.absent.items():
        page.warning(f"{name}: {WeightsAbsent.row} ({reason})")
    _accuracy(page, items)
    _pretraining(page, items)
    _near_ood(page, folder, chosen)
    _ood(page, items)
    _figures(page, items)
    _nodes(page, plan)
    _provenance(page, items)
    _all_metrics(page, items)
    return page


def _origin(item: Finished, by_id: dict[str, Finished], brief: bool = False) -> dict[str, Any]:
    card = model_card(item, by_id)
    bands = card.get("bands", ())
    counted = brief and len(bands) > _MOST_BANDS
    return {
        "node": item.node.id,
        "initialisation": card.get("initialisation"),
        "bands": str(len(bands)) if counted else " ".join(bands) or None,
    }


def _accuracy(page: Page, items: Sequence[Finished]) -> None:
    by_id = {item.node.id: item for item in items}
    found = [item for item in items if "test_accuracy" in item.metrics]
    if not found:
        return
    page.heading("Classification on the test split")
    page.table(
        [
            {
                **_origin(item, by_id),
                "n": item.metrics.get("test_n"),
                **{name: item.metrics.get(name) for name in _ACCURACY},
                "fingerprint": item.short,
            }
            for item in found
        ],
        caption="One row per fine-tuned model; n is the number of test patches.",
    )
    _spreads(page, found, _ACCURACY)


def _pretraining(page: Page, items: Sequence[Finished]) -> None:
    if rows := pretraining_rows(items):
        page.heading("Pretraining")
        page.table(
            rows,
            caption="Probes on frozen features of the watched set, before and after; over seeds: mean ± sample "
            "standard deviation. Cost: seconds an image over those of SimCLR with the same encoder, data and machine.",
        )
        watched = [item for item in items if f"{MEASURES[0]}_gain" in item.metrics]
        _spreads(page, watched, [f"{name}{end}" for name in MEASURES for end in ("_untrained", "", "_gain")])


def _ood(page: Page, items: Sequence[Finished]) -> None:
    by_id = {item.node.id: item for item in items}
    rows, measured = [], []
    for item in items:
        detectors = [name.removesuffix("_auroc") for name in item.metrics if name.endswith("_auroc")]
        measured += [item] if detectors else []
        for detector in sorted(detectors, key=lambda name: (name.startswith("shortcut_probe"), name)):
            low, value, high = (item.metrics[f"{detector}_auroc{end}"] for end in ("_low", "", "_high"))
            measures: dict[str, Any] = {"AUROC": f"{value:.4f} [{low:.4f}, {high:.4f}]"}
            measures |= {name.replace("_", " "): item.metrics.get(f"{detector}_{name}") for name in _OOD}
            sets = {"n ID": item.metrics.get("n_id"), "n OOD": item.metrics.get(f"{detector}_n_ood")}
            about = {**_origin(item, by_id, brief=True), "detector": _shown(detector)}
            rows.append({**about, **sets, **measures, "fingerprint": item.short})
    if not rows:
        return
    page.heading("Out of distribution", new_page=True)
    page.text(
        "Every score is higher for more out-of-distribution. The shortcut probe sees twelve image statistics and no "
        "network: a detector that does not beat it has shown nothing about the network."
    )
    page.table(rows, caption="AUROC with DeLong's 95 % interval; the gain over the probe is a difference of AUROCs.")
    names = sorted(
        {name for item in measured for name in item.metrics if name.endswith(("_auroc", "_gain_over_probe"))}
    )
    _spreads(page, measured, names)


def _shown(detector: str) -> str:
    """`msp@novel` as it is read."""
    name, _, part = detector.replace("_", " ").partition("@")
    return f"{name} (OOD part: {part})" if part else name


def _near_ood(page: Page, folder: Path, chosen: Sequence[str]) -> None:
    """Classes held out in turn: the figures and lines of `write_ood`, which also wrote the tables."""
    if not chosen:
        return
    page.heading("Near-OOD: each class held out in turn", new_page=True)
    for line in chosen:
        page.text(line)
    for path in sorted(folder.glob("near_ood*.png")):
        page.image(path, alt=path.stem, caption="AUROC of each detector for each held-out class (near_ood.csv)")


def _spreads(page: Page, items: Sequence[Finished], metrics: Sequence[str]) -> None:
    rows = [
        {
            "nodes": spread.group,
            "metric": spread.metric,
            "seeds": spread.n,
            "mean": spread.mean,
            "95 % interval": _interval(spread),
            "sd over seeds": spread.sd,
            "min": spread.low,
            "max": spread.high,
            "fingerprints": spread.fingerprints,
        }
        for spread in over_seeds(items, metrics)
    ]
    if rows:
        page.table(
            rows,
            caption="Over seeds: mean with Student's t interval, sample standard deviation, range. The interval of a "
            "gain is paired: each seed is compared with itself.",
        )


def _interval(spread: Spread) -> str | None:
    if spread.half_width is None:
        return None
    return f"[{spread.mean - spread.half_width:.4f}, {spread.mean + spread.half_width:.4f}]"


def _figures(page: Page, items: Sequence[Finished]) -> None:
    """Figures of all nodes, or of the first seed of each group where there would be too many."""
    figures = [(item, path) for item in items for path in sorted(item.path.glob("*.png"))]
    if not figures:
        return
    page.heading("Figures", new_page=True)
    if len(figures) > _MOST_FIGURES:
        first = {group_of(item.node): item.node.id for item in reversed(items)}
        kept = [(item, path) for item, path in figures if first[group_of(item.node)] == item.node.id]
        page.text(f"{len(figures)} figures are too many for one page; shown are those of the first seed ({len(kept)}).")
        figures = kept
    for item, path in figures:
        label = f"{item.node.id}: {path.stem.replace('_', ' ')}"
        page.image(path, alt=label, caption=f"{label} ({item.short})")


def _nodes(page: Page, plan: Plan) -> None:
    page.heading("Nodes", new_page=True)
    page.table(
        [
            {
                "node": node.id,
                "stage": node.stage,
                "state": node.state,
                "needs": ", ".join(node.needs.values()) or None,
                "overrides": " ".join(node.overrides),
                "fingerprint": node.fingerprint[:8],
                "artifact": node.artifact,
            }
            for node in plan.nodes
        ]
    )


def _provenance(page: Page, items: Sequence[Finished]) -> None:
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


def _all_metrics(page: Page, items: Sequence[Finished]) -> None:
    page.heading("All metrics", new_page=True)
    page.table(
        [
            {"node": item.node.id, "metric": name, "value": value, "fingerprint": item.short}
            for item in items
            for name, value in item.metrics.items()
        ]
    )
