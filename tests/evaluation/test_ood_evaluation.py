"""Checks that an out-of-distribution evaluation makes before it spends time, and the choice of rows."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssl_sat.evaluation import ood
from ssl_sat.spec import UserError


def pack(train: int = 500, **decode: object) -> SimpleNamespace:
    manifest = SimpleNamespace(decode=decode, decode_sha256=str(sorted(decode.items())))
    return SimpleNamespace(manifest=manifest, folder=Path("outputs/pack/some"), rows=lambda split: np.arange(train))


def test_a_choice_of_rows_is_seeded_sorted_and_without_repeats():
    rows = np.arange(100, 400)
    chosen = ood._some(rows, 40, seed=0)
    assert len(chosen) == len(set(chosen)) == 40
    assert set(chosen) <= set(rows)
    np.testing.assert_array_equal(chosen, np.sort(chosen))
    np.testing.assert_array_equal(chosen, ood._some(rows, 40, seed=0))
    assert not np.array_equal(chosen, ood._some(rows, 40, seed=1))
    np.testing.assert_array_equal(ood._some(rows, None, seed=0), rows)
    np.testing.assert_array_equal(ood._some(rows, 300, seed=0), rows)


def test_another_decode_path_is_refused_and_named():
    same = {"to_px": 64, "recompress": "none"}
    ood._same_decode(pack(**same), pack(**same))
    with pytest.raises(UserError, match=r"recompress: none against jpeg75.*which alone would tell them apart"):
        ood._same_decode(pack(**same), pack(to_px=64, recompress="jpeg75"))


def test_too_few_training_patches_are_told_before_the_work():
    ood._enough_to_fit(pack(train=120))
    with pytest.raises(UserError, match=r"has 119 training patches.*at least 120"):
        ood._enough_to_fit(pack(train=119))
