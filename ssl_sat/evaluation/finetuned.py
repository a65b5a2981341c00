"""What is measured of a fine-tuned model: val and test apart, test once, calibration fitted on val."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_sat.artifact import write_json
from ssl_sat.data.packed import Pack
from ssl_sat.evaluation.calibration import calibrated_metrics
from ssl_sat.evaluation.classification import classification_metrics, confusion_matrix
from ssl_sat.evaluation.packs import predict_rows
from ssl_sat.report import figures
from ssl_sat.report.curves import panels_of
from ssl_sat.training.callbacks import read_history


def evaluate(model: Any, views: Any, pack: Pack, out: Path, batch_size: int, demo: bool) -> dict[str, Any]:
    """Return `test_*` and `val_*` metrics; write predictions of test, the confusion matrix and the curves."""
    found = {}
    for split in ("val", "test"):
        if split in pack.splits and len(pack.rows(split)):
            rows = pack.rows(split)
            found[split] = predict_rows(
                model, views, pack, rows, split=split, classes=pack.classes, batch_size=batch_size
            )
    metrics: dict[str, Any] = {}
    for split, predictions in found.items():
        values = classification_metrics(predictions.logits_NK, predictions.labels_N, predictions.classes)
        metrics |= {f"{split}_{name}": value for name, value in values.items()}
    if "val" in found and "test" in found:
        scaled = calibrated_metrics(found["val"], found["test"])
        metrics |= {name if name == "temperature" else f"test_{name}": value for name, value in scaled.items()}
    if "test" in found:
        test = found["test"]
        test.save(out / "predictions-test")
        counts = confusion_matrix(test.labels_N, test.logits_NK.argmax(1), len(test.classes))
        write_json(out / "confusion.json", {"classes": list(test.classes), "counts": counts.tolist()})
        title = f"{test.dataset}, test: accuracy {metrics['test_accuracy']:.4f}, n = {len(test)}"
        figures.save(figures.confusion(counts, test.classes, title=title, demo=demo), out / "confusion")
    figures.save(figures.training_curves(panels_of(read_history(out / "history.jsonl")), demo=demo), out / "curves")
    return metrics
