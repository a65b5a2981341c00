"""A small classifier under corruptions, from pack to artifact."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from fakes.classifiers import write_classifier, write_pack, write_pictures

from ssl_sat.evaluation import shift
from ssl_sat.shift_eval import SHIFT_EVAL, ShiftEvalSpec
from ssl_sat.stage import execute

CLASSES = ("field", "lake", "roof")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("shift")
    write_pictures(folder / "own", CLASSES, 110)
    pack = write_pack(folder / "outputs", folder / "own")
    model = write_classifier(folder / "outputs", pack, CLASSES)
    spec = ShiftEvalSpec.parse(
        {"model": str(model.path), "corruptions": ["offset", "band_drop"], "detectors": ["msp", "knn"],
         "max_patches": 30, "max_train": 130, "outputs": str(folder / "outputs"), "device": "cpu", "progress": False}
    )  # fmt: skip
    return execute(SHIFT_EVAL, spec)


def test_every_corruption_and_severity_is_a_row_and_a_number(artifact) -> None:
    rows = list(csv.DictReader((artifact.path / "table.csv").open()))
    assert [(row["corruption"], row["severity"]) for row in rows] == [
        ("none", "0"), *((name, str(s)) for name in ("offset", "band_drop") for s in range(1, 6))
    ]  # fmt: skip
    metrics = artifact.metrics
    assert metrics["n"] == metrics["n_clean"] == 30 and metrics["in_reflectance_by"].startswith("inverse stretch")
    for row in rows[1:]:
        key = f"{row['corruption']}/{row['severity']}"
        assert float(row["accuracy"]) == metrics[f"accuracy/{key}"]
        assert float(row["auroc/knn"]) == metrics[f"auroc/knn/{key}"]
        assert 0 <= metrics[f"accepted/msp/{key}_low"] <= metrics[f"accepted/msp/{key}"] <= 1
    mean = np.mean([metrics[f"auroc/shortcut_probe/{name}/5"] for name in ("offset", "band_drop")])
    assert metrics["mean/auroc/shortcut_probe/5"] == pytest.approx(mean)
    assert metrics["auroc/shortcut_probe/offset/5"] > 0.99  # a brighter picture is told by its mean alone
    assert metrics["auroc/shortcut_probe/offset/5"] >= metrics["auroc/shortcut_probe/offset/1"]
    assert {"corruption_accuracy.png", "corruption_auroc.png", "corruption_accepted.png", "corruptions.pdf"} <= {
        path.name for path in artifact.path.iterdir()
    }


def test_clean_and_corrupted_patches_are_different_ones(artifact) -> None:
    from ssl_sat.data.packed import Pack

    spec = ShiftEvalSpec.parse({**artifact.config, "max_patches": 1000})
    outputs = artifact.path.parent.parent
    pack = Pack.open(next((outputs / "pack").glob("*/manifest.json")).parent)
    rows = shift._halves(pack, spec)
    assert len(rows["clean"]) == len(rows["corrupted"]) == 33
    assert not set(rows["clean"]) & set(rows["corrupted"])
    assert set(rows["clean"]) | set(rows["corrupted"]) <= set(pack.rows("test")) and set(rows["val"]) <= set(
        pack.rows("val")
    )
