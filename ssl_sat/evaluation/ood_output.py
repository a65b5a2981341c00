"""What an out-of-distribution evaluation leaves beside its predictions: scores, threshold, tables, figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import softmax

from ssl_sat.artifact import write_json
from ssl_sat.evaluation.classification import ece, wilson_interval
from ssl_sat.evaluation.ood import Results, deployed_detector
from ssl_sat.evaluation.ood_sets import Context
from ssl_sat.evaluation.pictures import pictures
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.ood.comparisons import compare
from ssl_sat.ood.conformal import coverage_interval
from ssl_sat.ood.spec import PROBE
from ssl_sat.report import figures, ood_figures
from ssl_sat.report.classification_figures import reliability
from ssl_sat.report.ood_table import COLUMNS, PAIRED, ood_rows, paired_rows
from ssl_sat.report.tables import write_tables

THRESHOLD_FORMAT = "ssl_sat.threshold/1"
THRESHOLD = "threshold.json"
_FOOLED = 6  # pictures on each side, per detector


def store(out: Path, context: Context, results: Results) -> None:
    """Write one row of scores a sample, and the threshold with its guarantee."""
    sets = {name: results.sets[name] for name in ("id", "ood")}
    kept = ~context.validation
    columns: dict[str, Any] = {
        "id": [name for part in sets.values() for name in part.ids],
        "set": [name for name, part in sets.items() for _ in range(len(part))],
        "class": [
            *context.feeds["id"].class_names(),
            *(name for name, shown in zip(context.feeds["ood"].class_names(), kept, strict=True) if shown),
        ],
    }
    for name, (inside, outside) in results.scores.items():
        columns[name] = np.concatenate([inside.values, outside.values])
    pq.write_table(pa.table(columns), out / "scores.parquet")
    if results.thresholds:
        write_json(out / THRESHOLD, threshold_record(context, results), sort=False)


def threshold_record(context: Context, results: Results) -> dict[str, Any]:
    """threshold.json: for whom the guarantee holds, what it says, and the threshold of every detector."""
    some, manifest = next(iter(results.thresholds.values())), context.feeds["val"].pack.manifest
    n = len(some.calibration_n)
    low, high = coverage_interval(n, some.rank)
    mc = results.sets["val"].mc
    return {
        "format": THRESHOLD_FORMAT,
        "deployed": deployed_detector(context.spec, results),
        "accept": "score <= threshold",
        "alpha": some.alpha,
        "guarantee": f"split conformal: P(an image like the calibration set's is accepted) >= {1 - some.alpha:g}",
        "calibration": {"data": manifest.source, "split": "val", "n": n, "rank": some.rank, "level": some.rank / n},
        "coverage": {"mean": some.rank / (n + 1), "low": low, "high": high, "level": 0.95, "law": "Beta(k, n + 1 - k)"},
        "mc": context.spec.mc.model_dump(mode="json") if mc else None,
        "decode": dict(manifest.decode),
        "decode_sha256": manifest.decode_sha256,
        "thresholds": {name: threshold.value for name, threshold in results.thresholds.items()},
    }


def tables(out: Path, context: Context, results: Results, metrics: Mapping[str, Any]) -> None:
    """table: a row a detector (and group), the probe last; paired: every detector against every other."""
    inside, outside = context.names
    caption = f"{inside} against {outside}. Higher scores mean more out-of-distribution for every detector."
    write_tables(out / "table", COLUMNS, ood_rows(metrics), caption)
    found = compare({name: pair for name, pair in results.scores.items() if name != PROBE})
    caption = (
        f"{inside} against {outside}: differences of AUROC on the same patches, DeLong's interval, p adjusted for all "
        f"{len(found)} comparisons (Holm); n = {metrics['n_id']} ID, {metrics['n_ood']} OOD, one seed."
    )
    if found:
        write_tables(out / "paired", PAIRED, paired_rows(found), caption)


def draw(out: Path, context: Context, results: Results) -> None:
    """All figures, as PNG and PDF."""
    demo, scores = context.demo, results.scores
    title = " against ".join(context.names)
    thresholds = {name: threshold.value for name, threshold in results.thresholds.items()}
    figures.save(ood_figures.score_histograms(scores, thresholds, title=title, demo=demo), out / "scores")
    figures.save(ood_figures.roc_curves(scores, title=title, demo=demo), out / "roc")
    figures.save(ood_figures.precision_recall(scores, title=title, demo=demo), out / "precision_recall")
    known = results.sets["id"].labels_N
    if known.ndim == 1 and (known >= 0).all():
        _with_labels(out, context, results, title)
    figures.save(_fooled(context, results, title), out / "fooled")


def _with_labels(out: Path, context: Context, results: Results, title: str) -> None:
    """Figures that need to know which predictions are wrong."""
    inside = results.sets["id"]
    wrong_N = inside.logits_NK.argmax(1) != inside.labels_N
    detectors = {name: pair for name, pair in results.scores.items() if name != PROBE}
    curves = ood_figures.risk_coverage(detectors, wrong_N, title=title, demo=context.demo)
    figures.save(curves, out / "risk_coverage")
    panels = {"as trained": _said(inside, 1.0)}
    if results.temperature is not None:
        panels[f"temperature {results.temperature:.3f} (fitted on val)"] = _said(inside, results.temperature)
    panels = {f"{name}\nECE {ece(*said):.4f}": said for name, said in panels.items()}
    diagram = reliability(
        panels, title=f"{context.names[0]}: calibration, n = {len(inside):,}", ylabel="share correct", demo=context.demo
    )
    figures.save(diagram, out / "reliability")


def _said(predictions: Predictions, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence, and whether the prediction is right."""
    p_NK = softmax(predictions.logits_NK.astype(np.float64) / temperature, axis=1)
    return p_NK.max(1), p_NK.argmax(1) == predictions.labels_N


def _fooled(context: Context, results: Results, title: str) -> Any:
    """For every detector the OOD patches that it takes for ID first, and the ID patches that it trusts least."""
    rows = []
    names = {"id": context.feeds["id"].class_names(), "ood": context.feeds["ood"].class_names()}
    kept = np.flatnonzero(~context.validation)
    names["ood"] = [names["ood"][at] for at in kept]
    for detector, (inside, outside) in results.scores.items():
        sides = {"ood": np.argsort(outside.values, kind="stable"), "id": np.argsort(-inside.values, kind="stable")}
        cells = []
        for side, order in sides.items():
            at = order[:_FOOLED]
            feed, told = context.feeds[side], results.sets[side]
            taken = feed.rows[kept[at]] if side == "ood" else feed.rows[at]
            said = [told.classes[k] for k in told.logits_NK[at].argmax(1)]
            own = [names[side][int(k)] for k in at]
            cells.append(ood_figures.Cells(pictures(feed.pack, taken, context.card.bands), own, said))
        share = None
        if detector in results.thresholds:
            accepted = results.thresholds[detector].accepts(outside)
            share = (float(accepted.mean()), *wilson_interval(int(accepted.sum()), len(accepted)))
        rows.append(ood_figures.FooledRow(detector, cells[0], cells[1], share))
    return ood_figures.fooled(rows, alpha=context.spec.threshold.alpha, title=title, demo=context.demo)
