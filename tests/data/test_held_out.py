"""A pack without some classes: rows, labels, classes and statistics of what is left; nothing of the rest leaks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from fakes.packs import GROUPS, write

from ssl_sat.data.held_out import without_classes
from ssl_sat.data.overlap import relations
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.training import setup


@pytest.fixture
def pack(tmp_path: Path):
    made = write(tmp_path / "pack", 30)
    (made.folder / "stats.json").write_text(
        '{"split": "train", "patches": 30, "unit": "reflectance", "percentiles": "exact", "bands": {}}'
    )
    return made


def test_rows_labels_and_classes_are_those_of_the_rest(pack) -> None:
    left = without_classes(pack, ["b"])
    assert left.classes == ("a", "c") and pack.classes == ("a", "b", "c")
    rows = left.rows("train")
    np.testing.assert_array_equal(rows, [row for row in range(30) if row % 3 != 1])
    np.testing.assert_array_equal(left.labels[rows], [(row % 3) // 2 for row in rows])
    assert set(left.labels[left.held_out_rows("train")]) == {-1}
    np.testing.assert_array_equal(np.union1d(rows, left.held_out_rows(None)), np.arange(30))
    batch = left.batch(rows[:4])
    assert batch.labels_N.tolist() == [0, 1, 0, 1] and batch.rows_N.tolist() == [0, 2, 3, 5]
    again = pickle.loads(pickle.dumps(left))
    assert again.classes == left.classes and np.array_equal(again.rows("train"), rows)
    assert without_classes(pack, ()) is pack


def test_a_pretraining_without_a_class_takes_no_patch_of_it_and_its_card_says_so(pack) -> None:
    left = without_classes(pack, ["b"])
    np.testing.assert_array_equal(setup.rows_of(left, "all"), left.rows("train"))
    np.testing.assert_array_equal(setup.rows_of(pack, "all"), np.arange(30))
    assert setup._label(left) == f"{setup._label(pack)[:-1]}, without b)"


def test_statistics_leave_the_held_out_patches_out(pack) -> None:
    left = without_classes(pack, ["a"])
    rows = left.rows("train")
    fine, coarse = pack.read(rows)
    assert left.stats.patches == 20 and left.stats.split == "train"
    for at, name in enumerate(GROUPS[0][0]):
        values = fine[:, at].astype(float) / 10000
        assert left.stats[name].mean == pytest.approx(values.mean(), rel=1e-12)
        assert left.stats[name].std == pytest.approx(values.std(), rel=1e-12)
        assert left.stats[name].max == values.max() and left.stats[name].count == values.size
    assert left.stats["B05"].mean == pytest.approx(coarse.astype(float).mean() / 10000, rel=1e-12)


def test_mistakes_are_named(pack, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"held_out: no class 'aa' \(there are: a, b, c\)"):
        without_classes(pack, ["aa"])
    with pytest.raises(ConfigError, match=r"held_out=a,b leaves one class only \(c\); classification needs two"):
        without_classes(pack, ["a", "b"])
    with pytest.raises(UserError, match="several labels a patch; held_out needs one class a patch"):
        without_classes(write(tmp_path / "multi", 6, label_kind="multi"), ["a"])


def test_classes_that_two_data_sets_share() -> None:
    eurosat = ("AnnualCrop", "Forest", "Highway", "Residential", "River", "SeaLake")
    found = relations("eurosat_rgb", eurosat, "ucmerced", ["forest", "freeway", "beach", "airplane", "tenniscourt"])
    assert found == {"forest": "overlapping", "freeway": "overlapping", "beach": "partial", "airplane": "novel",
                     "tenniscourt": "novel"}  # fmt: skip
    assert relations("eurosat_ms", ("River", "Highway"), "ucmerced", ["forest", "beach"]) == {
        "forest": "novel",  # held out from the model, or never in it
        "beach": "novel",
    }
    named = relations("imagefolder", ("Sea Lake", "barn"), "geotiff", ["sea-lake", "BARN", "quay"])
    assert named == {"sea-lake": "overlapping", "BARN": "overlapping", "quay": "novel"}
