"""What an artifact of fine-tuning says of itself: metrics against scikit-learn on its predictions, files, figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as oracle

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import write_pack
from ssl_sat.encoders import ENCODERS
from ssl_sat.evaluation.finetuned import evaluate
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.training.classifier import Classifier

COLOURS = {"clay, red": (200, 60, 40), "grass": (60, 160, 50), "lake": (40, 60, 170)}
BANDS = ("red", "green", "blue")


def write_images(root: Path, per_split: int = 12) -> list[str]:
    rng = np.random.default_rng(0)
    rows = ["file,label"]
    for split in ("train", "val", "test"):
        for cls, colour in COLOURS.items():
            (root / split / cls).mkdir(parents=True)
            for number in range(per_split):
                pixels = np.clip(rng.normal(colour, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / cls / f"{number}.png")
                more = ["dark"] if number % 3 == 0 else []
                rows.append(f'"{split}/{cls}/{number}","{";".join([cls, *more])}"')
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return rows


def model_for(pack: Pack) -> tuple[Classifier, Views]:
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn"}), bands=BANDS, image_size=16, seed=0)
    head = ClassifierHead(encoder.embed_dim, len(pack.classes), kind="linear", dropout=0.0)
    layout = [(tuple(group.bands), group.height, group.width) for group in pack.groups]
    views = Views(AugmentSpec(name="none"), layout, bands=BANDS, scale=255.0, offset=0.0, mean_C=[0.4] * 3,
                  std_C=[0.2] * 3, image_size=16)  # fmt: skip
    return Classifier(encoder, head), views


def measured(tmp: Path, several: bool) -> tuple[dict[str, Any], Path, Pack]:
    write_images(tmp / "d")
    config: dict[str, Any] = {"root": str(tmp / "d"), "size_px": 16, "split": "folders"}
    config |= {"labels": "csv", "labels_file": str(tmp / "d" / "labels.csv"), "label_separator": ";"} if several else {}
    write_pack(SOURCES.parse({"name": "imagefolder", **config}), tmp / "pack")
    pack = Pack.open(tmp / "pack")
    model, views = model_for(pack)
    out = tmp / "out"
    out.mkdir()
    rows = [{"phase": "all", "epoch": e, "step": e + 1, "loss": 1.0 / (e + 1), "accuracy": 0.5} for e in range(3)]
    rows += [{"phase": "all", "epoch": e, "step": e + 1, "val_loss": 1.1 / (e + 1)} for e in range(3)]
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    started = ENCODERS.build(ENCODERS.parse({"name": "cnn"}), bands=BANDS, image_size=16, seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metrics = evaluate(model, views, pack, out, 16, True, train_rows=pack.rows("train")[:30], start=lambda: started)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return metrics, out, pack


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Pack]:
    return measured(tmp_path_factory.mktemp("single"), several=False)


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Pack]:
    return measured(tmp_path_factory.mktemp("multi"), several=True)


def test_one_label_a_patch(single: tuple[dict[str, Any], Path, Pack]) -> None:
    metrics, out, pack = single
    stored = Predictions.load(out / "predictions-test")
    guess = stored.logits_NK.argmax(1)
    assert metrics["test_accuracy"] == pytest.approx(oracle.accuracy_score(stored.labels_N, guess))
    assert metrics["test_macro_f1"] == pytest.approx(oracle.f1_score(stored.labels_N, guess, average="macro"))
    assert metrics["test_n"] == metrics["val_n"] == 36 and metrics["train_sample_n"] == 30
    np.testing.assert_array_equal(stored.labels_N, pack.labels[pack.rows("test")])
    counts = json.loads((out / "confusion.json").read_text())["counts"]
    np.testing.assert_array_equal(counts, oracle.confusion_matrix(stored.labels_N, guess))
    assert {"temperature", "test_ece_scaled", "gap", "gap_low", "overfitting", "start_knn_accuracy",
            "tuned_linear_probe_accuracy"} <= metrics.keys()  # fmt: skip
    report = oracle.classification_report(stored.labels_N, guess, output_dict=True, zero_division=0)
    with (out / "per_class.csv").open(newline="") as file:
        for k, row in enumerate(csv.DictReader(file)):
            assert row["class"] == pack.classes[k] and int(row["support"]) == report[str(k)]["support"]
            assert float(row["f1"]) == pytest.approx(report[str(k)]["f1-score"])
    with (out / "mistakes.csv").open(newline="") as file:
        mistakes = list(csv.DictReader(file))
    assert len(mistakes) == min(24, int((guess != stored.labels_N).sum()))
    assert all(row["true"] != row["predicted"] for row in mistakes)


def test_several_labels_a_patch(multi: tuple[dict[str, Any], Path, Pack]) -> None:
    metrics, out, pack = multi
    stored = Predictions.load(out / "predictions-test")
    assert pack.classes == ("clay, red", "dark", "grass", "lake")
    assert metrics["test_map_macro"] == pytest.approx(
        oracle.average_precision_score(stored.labels_N, stored.logits_NK, average="macro")
    )
    assert metrics["test_map_micro_low"] < metrics["test_map_micro"] < metrics["test_map_micro_high"]
    assert not any("accuracy" in name for name in metrics)
    assert {"temperature", "test_nll_scaled", "tuned_knn_map_macro", "start_linear_probe_map_macro"} <= metrics.keys()
    assert metrics["gap_of"] == "map_micro"
    assert not (out / "confusion.json").exists()


@pytest.mark.parametrize("which", ["single", "multi"])
def test_figures_are_pictures_and_metrics_are_flat(which: str, request: pytest.FixtureRequest) -> None:
    from ssl_sat.artifact import check_metrics

    metrics, out, _ = request.getfixturevalue(which)
    check_metrics(metrics)
    names = ["curves", "per_class", "calibration", "mistakes", *(["confusion"] if which == "single" else [])]
    for name in names:
        picture = np.asarray(Image.open(out / f"{name}.png").convert("L")).astype(float)
        assert picture.std() > 5, name
    assert sorted(p.stem for p in out.glob("*.png")) == sorted(names)


def test_without_a_test_split_there_is_no_result(tmp_path: Path) -> None:
    write_images(tmp_path / "d")
    spec = SOURCES.parse({"name": "imagefolder", "root": str(tmp_path / "d"), "size_px": 16, "split": "fractions",
                          "test_fraction": 0.0, "val_fraction": 0.3})  # fmt: skip
    write_pack(spec, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    model, views = model_for(pack)
    (tmp_path / "history.jsonl").write_text('{"phase": "a", "epoch": 0, "step": 1, "loss": 1.0}\n')
    metrics = evaluate(model, views, pack, tmp_path, 32, False)
    assert not any(name.startswith(("test_", "tuned_")) for name in metrics) and "val_accuracy" in metrics
    assert not (tmp_path / "predictions-test").exists()
