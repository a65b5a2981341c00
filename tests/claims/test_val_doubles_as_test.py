"""Published mistake: the validation split, on which the best checkpoint was chosen, is reported as the test split."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes.classifiers import write_pack, write_pictures
from fakes.eurosat import names, write_lists, write_rgb

from ssl_sat.finetune import FINETUNE
from ssl_sat.pack import PACK
from ssl_sat.spec import MissingInput, UserError


def test_the_best_of_many_guesses_looks_skilled_on_the_split_that_chose_it() -> None:
    rng = np.random.default_rng(0)
    labels_2N = rng.integers(0, 2, (2, 300))
    said_C2N = rng.integers(0, 2, (200, 2, 300))  # 200 checkpoints that guess, on val and test
    accuracy_C2 = (said_C2N == labels_2N).mean(axis=2)
    best = accuracy_C2[:, 0].argmax()
    assert accuracy_C2[best, 0] > 0.56  # as published
    assert accuracy_C2[:, 0].mean() == pytest.approx(0.5, abs=0.005)
    assert accuracy_C2[best, 1] < 0.51  # on patches that chose nothing


def lists_with(tmp_path: Path, make, test: list[str]) -> None:
    """Pack a small EuroSAT whose test list is this one."""
    write_rgb(tmp_path / "data")
    write_lists(tmp_path / "lists")
    (tmp_path / "lists" / "eurosat-test.txt").write_text("\n".join(f"{name}.jpg" for name in test))
    where = (f"data.root={tmp_path / 'data'}", f"data.splits_dir={tmp_path / 'lists'}")
    make("pack", "data=eurosat_rgb", *where, f"outputs={tmp_path}", "workers=1")


def test_a_list_that_names_an_image_twice_is_refused(tmp_path: Path, make) -> None:
    val = [name for name in names() if name.endswith("_4")]
    with pytest.raises(UserError, match=r"'AnnualCrop_4' is in 'val' and in 'test'"):
        lists_with(tmp_path, make, val)


def test_the_same_pixels_under_other_names_are_counted_and_said(tmp_path: Path, make) -> None:
    write_pictures(tmp_path / "own" / "val", ("field", "lake"), 6)
    write_pictures(tmp_path / "own" / "train", ("field", "lake"), 6, seed=1)
    for path in sorted((tmp_path / "own" / "val").rglob("*.png")):
        copy = tmp_path / "own" / "test" / path.parent.name / f"renamed_{path.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    pack = make(
        "pack", "data=imagefolder", f"data.root={tmp_path / 'own'}", "data.split=folders", f"outputs={tmp_path}",
        "workers=1",
    )  # fmt: skip
    assert pack.metrics["duplicates_across_splits"] == 12
    assert PACK.headline(pack.metrics)[1] == (
        "12 patches are, bit for bit, also in an earlier split: what is measured on them was seen"
    )


def test_without_a_test_split_no_number_is_called_a_result(tmp_path: Path, make) -> None:
    write_pictures(tmp_path / "own", ("field", "lake"), 20)
    pack = write_pack(tmp_path, tmp_path / "own", val_fraction=0.4, test_fraction=0.0)
    run = ("init=scratch", "encoder=cnn", "image_size=16", "phases=full", "epochs=1", "batch_size=8")
    tuned = make("finetune", f"pack={pack.path}", f"outputs={tmp_path}", *run)
    assert tuned.metrics["val_n"] == 16 and not [name for name in tuned.metrics if name.startswith("test_")]
    assert FINETUNE.headline(tuned.metrics)[-1] == (
        "no test split: validation chose the model, so these numbers are no result"
    )
    with pytest.raises(MissingInput, match="none of 1 fine-tuned artifacts is left to compare"):
        make("compare", f"outputs={tmp_path}")


def test_test_is_measured_once_and_never_chooses(chain) -> None:
    rows = (chain.tuned.path / "history.jsonl").read_text()
    assert '"val_' in rows and "test" not in rows
    assert chain.tuned.metrics["test_n"] == chain.tuned.metrics["val_n"] == 66
