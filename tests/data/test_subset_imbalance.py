"""A training set made imbalanced: the exponential profile, seeded, and fingerprints that it leaves alone."""

import numpy as np
import pytest
from fakes.packs import write

from ssl_sat.data.subset import SubsetSpec, select
from ssl_sat.spec import ConfigError, UserError


def sizes(pack, **values) -> list[int]:
    rows = select(pack, np.arange(len(pack)), SubsetSpec(**values))
    assert (np.diff(rows) > 0).all()
    return np.bincount(pack.labels[rows], minlength=3).tolist()


def test_the_profile_is_exponential_and_as_large_as_can_be(tmp_path):
    pack = write(tmp_path / "even", 300)
    assert sizes(pack, imbalance_ratio=25) == [100, 20, 4]
    assert sizes(pack, imbalance_ratio=1) == [100, 100, 100]
    assert sizes(pack, imbalance_ratio=25, per_class=50) == [50, 10, 2]
    rows = [select(pack, np.arange(300), SubsetSpec(imbalance_ratio=25, seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[0], rows[2])


def test_a_class_is_never_left_without_patches(tmp_path):
    with pytest.raises(UserError, match="imbalance_ratio=500 leaves a class without any patch"):
        sizes(write(tmp_path / "pack", 300), imbalance_ratio=500)
    with pytest.raises(UserError, match="needs one label a patch"):
        sizes(write(tmp_path / "several", 30, label_kind="multi"), imbalance_ratio=2)


def test_fingerprints_of_other_subsets_are_what_they_were():
    assert "imbalance_ratio" not in SubsetSpec(per_class=3).science()
    assert SubsetSpec(imbalance_ratio=2.0).science()["imbalance_ratio"] == 2.0
    with pytest.raises(ConfigError, match="exactly one of patches, fraction, per_class is needed; none is set"):
        SubsetSpec.parse({"seed": 1})
