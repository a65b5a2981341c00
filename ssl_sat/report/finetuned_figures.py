"""The figures of a fine-tuned model's artifact: which numbers go into which picture, under which title."""

# N samples, K classes

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from ssl_sat.data.packed import Pack
from ssl_sat.evaluation import mistakes as chosen
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.report import classification_figures as plots
from ssl_sat.report import figures
from ssl_sat.report.curves import panels_of
from ssl_sat.training.callbacks import read_history

Metrics = Mapping[str, Any]


def curves(out: Path, metrics: Metrics, demo: bool) -> None:
    """`curves`: training and validation over the epochs, with the gap as the final weights have it in the title."""
    panels = panels_of(read_history(out / "history.jsonl"))
    figures.save(figures.training_curves(panels, title=gap_line(metrics), demo=demo), out / "curves")


def gap_line(metrics: Metrics) -> str:
    """What the gap says, in a line; '' without a validation split."""
    if "gap" not in metrics:
        return ""
    verdict = "over-fitting" if metrics["overfitting"] else "no over-fitting by the rule"
    of = str(metrics["gap_of"]).replace("_", " ")
    ends = f"[{metrics['gap_low']:+.3f}, {metrics['gap_high']:+.3f}]"
    return f"train - val {of}, seen alike: {metrics['gap']:+.3f} {ends}: {verdict} (lower end above 0.05)"


def confusion(out: Path, counts_KK: NDArray[np.int64], test: Predictions, metrics: Metrics, demo: bool) -> None:
    """`confusion`."""
    low, high = metrics["test_accuracy_low"], metrics["test_accuracy_high"]
    value = f"accuracy {metrics['test_accuracy']:.4f} [{low:.4f}, {high:.4f}]"
    title = f"{test.dataset}, test: {value}, n = {len(test):,}"
    figures.save(figures.confusion(counts_KK, test.classes, title=title, demo=demo), out / "confusion")


def classes(out: Path, rows: Sequence[Mapping[str, Any]], test: Predictions, metrics: Metrics, demo: bool) -> None:
    """`per_class`: recall and precision, or average precision, recall and precision."""

    def column(name: str) -> NDArray[np.float64]:
        return np.array([row[name] if row["support"] and row[name] is not None else np.nan for row in rows], np.float64)

    shown = {"recall": column("recall"), "precision": column("precision")}
    ends: NDArray[np.float64] | None = np.stack([column("recall_low"), column("recall_high")])
    score = f"macro F1 {metrics['test_macro_f1']:.3f}"
    if test.labels_N.ndim == 2:
        shown, ends = {"average precision": column("average_precision"), **shown}, None
        score = f"mAP macro {metrics['test_map_macro']:.3f}, micro {metrics['test_map_micro']:.3f}; {score}"
    title = f"{test.dataset}, test: {score}, n = {len(test):,} (patches of the class in brackets)"
    support = [int(row["support"]) for row in rows]
    figure = plots.class_dots(test.classes, support, shown, ends, title=title, demo=demo)
    figures.save(figure, out / "per_class")


def calibration(out: Path, test: Predictions, metrics: Metrics, demo: bool) -> None:
    """`calibration`: what was said against what came true, before and after temperature scaling."""
    temperatures = {"as trained": 1.0}
    if "temperature" in metrics:
        temperatures[f"temperature {metrics['temperature']:.3f} (fitted on val)"] = float(metrics["temperature"])
    panels = {}
    for at, (name, temperature) in enumerate(temperatures.items()):
        error = metrics["test_ece" if at == 0 else "test_ece_scaled"]
        panels[f"{name}\nECE {error:.4f}"] = _said_and_true(test, temperature)
    several = test.labels_N.ndim == 2
    labels = ("predicted probability", "share present") if several else ("confidence", "share correct")
    what = "all pairs of patch and class" if several else f"n = {len(test):,}"
    figure = plots.reliability(
        panels, xlabel=labels[0], ylabel=labels[1], title=f"{test.dataset}, test: calibration, {what}", demo=demo
    )
    figures.save(figure, out / "calibration")


def _said_and_true(test: Predictions, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    logits_NK = test.logits_NK.astype(np.float64) / temperature
    if test.labels_N.ndim == 2:
        return expit(logits_NK).ravel(), test.labels_N.ravel() > 0.5
    p_NK = softmax(logits_NK, axis=1)
    return p_NK.max(1), p_NK.argmax(1) == test.labels_N


def worst(out: Path, test: Predictions, pack: Pack, demo: bool) -> None:
    """`mistakes` and `mistakes.csv`: the surest wrong decisions; no picture where there is none."""
    found = chosen.worst(test)
    with (out / "mistakes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "true", "predicted", "confidence"))
        table.writerows((m.id, m.true, m.predicted, f"{m.confidence:.6f}") for m in found)
    if not found:
        return
    captions = [(m.true, m.predicted, m.confidence) for m in found]
    title = f"{test.dataset}, test: the {len(found)} surest mistakes (above: true; below: predicted, probability)"
    pictures = chosen.pictures(pack, [m.row for m in found])
    figures.save(plots.mistakes(pictures, captions, title=title, demo=demo), out / "mistakes")
