"""What is measured of a fine-tuned model: val and test apart, results on test alone, calibration fitted on val.

Beside the test metrics stand the gap between training and validation (`evaluation.overfitting`) and two probes,
nearest neighbours and a linear classifier, on frozen features of the encoder as it started (`start_`) and as it ended
(`tuned_`): what fine-tuning bought. Both are fitted on at most `SAMPLE` of the patches trained on, a seeded choice.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssl_sat.artifact import write_json
from ssl_sat.data.packed import Pack
from ssl_sat.data.subset import SubsetSpec, select
from ssl_sat.evaluation import multilabel
from ssl_sat.evaluation.calibration import calibrated_metrics
from ssl_sat.evaluation.classification import classification_metrics, confusion_matrix, per_class, wilson_interval
from ssl_sat.evaluation.overfitting import gap_metrics
from ssl_sat.evaluation.packs import predict_rows
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.evaluation.probes import probe_metrics
from ssl_sat.report import finetuned_figures as draw
from ssl_sat.training.classifier import Classifier

SAMPLE = 2000  # training patches that the gap and the probes are measured on


def evaluate(
    model: Any, views: Any, pack: Pack, out: Path, batch_size: int, demo: bool, *,
    train_rows: np.ndarray | None = None, start: Callable[[], Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return flat metrics of val, test, gap and probes; write test predictions, per-class table and figures.

    train_rows: the rows that were trained on (default: the train split). start: gives the encoder before fine-tuning;
    without it only the tuned one is probed.
    """
    trained = pack.rows("train") if train_rows is None else train_rows
    sample = select(pack, trained, SubsetSpec(patches=min(SAMPLE, len(trained))))

    def predicted(of: Any, split: str) -> Predictions:
        rows = sample if split == "train" else pack.rows(split)
        return predict_rows(of, views, pack, rows, split=split, classes=pack.classes, batch_size=batch_size)

    there = [split for split in ("val", "test") if split in pack.splits and len(pack.rows(split))]
    found = {split: predicted(model, split) for split in ("train", *there)}
    metrics: dict[str, Any] = {}
    for split in there:
        metrics |= {f"{split}_{name}": value for name, value in split_metrics(found[split], split == "test").items()}
    if "val" in found:
        metrics |= gap_metrics(found["train"], found["val"])
    if "val" in found and "test" in found:
        scaled = calibrated_metrics(found["val"], found["test"])
        metrics |= {name if name == "temperature" else f"test_{name}": value for name, value in scaled.items()}
    if "test" in found:
        metrics |= _probed("tuned", found["train"], found["test"])
        if start is not None:
            before = Classifier(start().to(next(model.parameters()).device), model.head)
            metrics |= _probed("start", predicted(before, "train"), predicted(before, "test"))
        _write_test(found["test"], metrics, pack, out, demo)
    draw.curves(out, metrics, demo)
    return metrics


def split_metrics(predictions: Predictions, with_intervals: bool = True) -> dict[str, float | int]:
    """Metrics of the predictions' own kind of labels."""
    values = predictions.logits_NK, predictions.labels_N, predictions.classes
    if predictions.labels_N.ndim == 2:
        return multilabel.multilabel_metrics(*values, bootstrap=with_intervals)
    return classification_metrics(*values)


def _probed(prefix: str, train: Predictions, test: Predictions) -> dict[str, float]:
    found = probe_metrics(train, test, k=min(20, len(train)))
    return {f"{prefix}_{name}": value for name, value in found.items()}


def _write_test(test: Predictions, metrics: dict[str, Any], pack: Pack, out: Path, demo: bool) -> None:
    """Predictions, tables and figures of the test split."""
    test.save(out / "predictions-test")
    rows = class_rows(test)
    with (out / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    if test.labels_N.ndim == 1:
        counts = confusion_matrix(test.labels_N, test.logits_NK.argmax(1), len(test.classes))
        write_json(out / "confusion.json", {"classes": list(test.classes), "counts": counts.tolist()})
        draw.confusion(out, counts, test, metrics, demo)
    draw.classes(out, rows, test, metrics, demo)
    draw.calibration(out, test, metrics, demo)
    draw.worst(out, test, pack, demo)


def class_rows(predictions: Predictions) -> list[dict[str, Any]]:
    """The per-class report: support, precision, recall with its Wilson interval, F1, and AP with several labels."""
    truth, logits = predictions.labels_N, predictions.logits_NK
    several = truth.ndim == 2
    if several:
        values = multilabel.f1_scores(logits > 0, truth > 0.5)
    else:
        values = per_class(confusion_matrix(truth, logits.argmax(1), len(predictions.classes)))
    rows = []
    for k, name in enumerate(predictions.classes):
        support = int(values["support"][k])
        row: dict[str, Any] = {"class": name, "support": support}
        row |= {key: float(values[key][k]) for key in ("precision", "recall", "f1")}
        low, high = wilson_interval(round(row["recall"] * support), support) if support else (None, None)
        row |= {"recall_low": low, "recall_high": high}
        if several:
            ap = float(multilabel.average_precision(logits[:, k], truth[:, k] > 0.5)[0])
            row["average_precision"] = ap if support else None
        rows.append(row)
    return rows
