"""Judge images one after the other with a deployed threshold: prediction, confidence, OOD score, accepted or not.

The detector is fitted again from the predictions that the evaluation stored (training patches, nothing else), and the
threshold is taken again from those of its validation split; both must be what threshold.json says.
"""

# N images of a batch, K classes

from __future__ import annotations

import csv
import hashlib
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import expit, log_softmax

from ssl_sat.artifact import Artifact
from ssl_sat.evaluation.embedding import ROW_GROUP, Layout, Row, Stream, finished, place, views_of
from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.conformal import conformal_threshold
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.spec import ConfigError, MissingInput, Spec, UserError, suggest
from ssl_sat.training.model_io import load_classifier

FORMAT = "ssl_sat.threshold/1"
_SAME = 1e-6  # relative difference of a threshold that other versions of numpy or torch may cause


class Judged(NamedTuple):
    """A row of the result; `p_value` is the conformal one: at most alpha exactly where the image is rejected."""

    path: str
    id: str
    prediction: str
    confidence: float
    ood_score: float
    p_value: float
    decision: str


_TEXTS = ("path", "id", "prediction", "decision")
SCHEMA = pa.schema([(name, pa.string() if name in _TEXTS else pa.float64()) for name in Judged._fields])


class Scorer:
    """A classifier with a fitted detector and its threshold, as an evaluation left them."""

    def __init__(self, evaluation: Artifact, model: Path, detector: str | None, device: torch.device) -> None:
        self.record = read_record(evaluation)
        classifier, self.card = load_classifier(model)
        self.model: Any = classifier.to(device).eval()
        self.device = device
        spec: Any = _detector(evaluation, self.record, detector)
        self.detector: str = spec.name
        built = DETECTORS.build(spec)
        if built.needs == "members":
            raise ConfigError(f"by={self.detector} asks an ensemble, and score runs one network; choose another")
        self._mc = McDropoutSpec.parse({**self.record["mc"], "repeats": 1}) if built.needs == "mc" else None
        train, val = (Predictions.load(evaluation.path / f"predictions-{name}") for name in ("train", "val"))
        self._fitted = built.fit(train)
        self.threshold = conformal_threshold(self._fitted(val), self.record["alpha"])
        recorded = self.record["thresholds"][self.detector]
        if not math.isclose(self.threshold.value, recorded, rel_tol=_SAME, abs_tol=_SAME):
            raise UserError(
                f"{evaluation.path}: its predictions give {self.detector} the threshold {self.threshold.value:.8g}, "
                f"recorded is {recorded:.8g}. Files or detector have changed: run ood_eval again with stale=rerun."
            )
        self._several = train.labels_N.ndim == 2

    def views(self, layout: Layout) -> Any:
        """Views of images of this layout; UserError when they were decoded another way than the calibration set."""
        if layout.decode_sha256 != self.record["decode_sha256"]:
            shown = ", ".join(f"{name}={value}" for name, value in self.record["decode"].items())
            raise UserError(
                f"{layout.name} is decoded another way than the data of the threshold ({shown}), whose guarantee does "
                f"not hold for it. Give images=<folder>, which is decoded like it, or set data.size_px and "
                f"data.recompress as there."
            )
        return views_of(self.card, layout)

    def __call__(self, views: Any, rows: Sequence[Row], groups: Sequence[torch.Tensor]) -> list[Judged]:
        """Judge a batch. Dropout masks go by the image's id, so that a result does not depend on its neighbours."""
        x_NCHW = views.center([group.to(self.device) for group in groups])
        keys_N = torch.tensor([_key(row.id) for row in rows], device=self.device)
        found = predict(
            self.model, [(x_NCHW, keys_N, torch.full_like(keys_N, -1))], self.device, dataset="images", split="ood",
            classes=self.card.classes or (), ids=_Names(keys_N.tolist(), [row.id for row in rows]), mc=self._mc,  # type: ignore[arg-type]
        )  # fmt: skip
        scores = self._fitted(found)
        names, confidence_N = self._said(found)
        accepted_N, p_N = self.threshold.accepts(scores), self.threshold.p_values(scores)
        return [
            Judged(row.path, row.id, name, float(sure), float(score), float(p), "accept" if fine else "reject")
            for row, name, sure, score, p, fine in zip(
                rows, names, confidence_N, scores.values, p_N, accepted_N, strict=True
            )
        ]

    def _said(self, found: Predictions) -> tuple[list[str], np.ndarray]:
        """The most probable class and its probability; of several labels all above one half, and the least sure."""
        logits_NK = found.logits_NK.astype(np.float64)
        if not self._several:
            p_NK = np.exp(log_softmax(logits_NK, axis=1))
            return [found.classes[k] for k in p_NK.argmax(1)], p_NK.max(1)
        p_NK = expit(logits_NK)
        return [";".join(np.array(found.classes)[p > 0.5]) for p in p_NK], np.maximum(p_NK, 1 - p_NK).min(1)


class _Names:
    """Names by key, as `predict` asks for them."""

    def __init__(self, keys: Sequence[int], names: Sequence[str]) -> None:
        self._names = dict(zip(keys, names, strict=True))

    def __getitem__(self, key: int) -> str:
        return self._names[key]


def _key(name: str) -> int:
    """63 bits of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def read_record(evaluation: Artifact) -> dict[str, Any]:
    """threshold.json of an evaluation; MissingInput when it has none."""
    if not (evaluation.path / "threshold.json").is_file():
        raise MissingInput(
            f"{evaluation.path} holds no threshold (no threshold.json): its data had no val split, or too few patches "
            f"in it for alpha, or it was made by an earlier version. Run ood_eval again."
        )
    record = evaluation.json("threshold.json")
    if record["format"] != FORMAT:
        raise UserError(f"{evaluation.path}: threshold.json is {record['format']}, this version reads {FORMAT}")
    return record


def _detector(evaluation: Artifact, record: dict[str, Any], wanted: str | None) -> Spec:
    """The spec of the detector to use: the one asked for, or the deployed one."""
    name = wanted or record["deployed"]
    if name not in record["thresholds"]:
        known = sorted(record["thresholds"])
        raise ConfigError(f"by: no '{name}' in {evaluation.path} (there are: {', '.join(known)}){suggest(name, known)}")
    specs = {values["name"]: values for values in evaluation.config["detectors"]}
    return DETECTORS.parse(specs[name])


class JudgedFile:
    """scores.parquet, written row group by row group."""

    def __init__(self, path: Path) -> None:
        self._writer, self._rows, self.count, self.accepted = pq.ParquetWriter(path, SCHEMA), [], 0, 0  # type: ignore[var-annotated]

    def add(self, rows: Sequence[Judged]) -> None:
        """Append rows."""
        self._rows += rows
        self.count += len(rows)
        self.accepted += sum(row.decision == "accept" for row in rows)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._writer.write_table(pa.table(columns, schema=SCHEMA))
        self._rows = []


def score_stream(scorer: Scorer, stream: Stream, out: Path) -> dict[str, Any]:
    """Write scores.parquet and unreadable.csv; memory holds a batch and a row group, whatever the number of images."""
    views = scorer.views(stream.layout)
    file = JudgedFile(out / "scores.parquet")
    for rows, groups in stream.batches:
        file.add(scorer(views, rows, groups))
    file.close()
    counts = finished(file.count, stream.unreadable, out)
    return {
        **counts,
        "accepted": file.accepted,
        "rejected": file.count - file.accepted,
        "detector": scorer.detector,
        "alpha": scorer.threshold.alpha,
        "threshold": scorer.threshold.value,
    }


def deliver(artifact: Path, to: Path) -> list[Path]:
    """Put the rows where the user wants them, as .parquet or .csv, and <name>.unreadable.csv where there are any."""
    make = _as_csv if to.suffix == ".csv" else shutil.copyfile
    return place({to: partial(make, artifact / "scores.parquet")}, artifact / "unreadable.csv", to)


def _as_csv(scores: Path, to: Path) -> None:
    with pq.ParquetFile(scores) as file, open(to, "w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(Judged._fields)
        for batch in file.iter_batches(ROW_GROUP):
            table.writerows(zip(*(batch[name].to_pylist() for name in Judged._fields), strict=True))
