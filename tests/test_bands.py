"""Bands by name: facts of Sentinel-2A, and positions that follow names through permutations."""

import random

import pytest

from ssl_sat.bands import AERIAL_RGB, BAND_SETS, S2_L1C, S2_L2A, S2_RGB, band, find, positions, wavelengths_nm
from ssl_sat.spec import ConfigError


def test_facts_of_sentinel_2() -> None:
    assert wavelengths_nm(S2_RGB) == [664.6, 559.8, 492.7]
    assert [band(name).gsd_m for name in S2_L1C] == [60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20]
    assert len(S2_L1C) == 13
    assert len(S2_L2A) == 12
    assert set(S2_L1C) - set(S2_L2A) == {"B10"}
    assert wavelengths_nm(S2_L1C) == sorted(wavelengths_nm(S2_L1C))


def test_positions_follow_the_names_under_any_permutation() -> None:
    for seed in range(5):
        present = random.Random(seed).sample(S2_L1C, 13)
        wanted = random.Random(seed + 99).sample(S2_L1C, 6)
        assert [present[at] for at in positions(wanted, present)] == wanted


def test_common_names_join_sensors() -> None:
    assert positions(S2_RGB, AERIAL_RGB) == [0, 1, 2]
    assert positions(AERIAL_RGB, S2_L2A) == [S2_L2A.index(name) for name in S2_RGB]
    assert find("B8A", ("B08",)) is None  # nir08 is not nir


def test_all_missing_bands_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^2 of 3 bands missing: B09, B11 \(present: B04, B03, B02\)"):
        positions(("B04", "B09", "B11"), S2_RGB)


def test_a_misspelt_band_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no band 'B8a'.*did you mean 'B8A'\?"):
        band("B8a")


def test_band_sets_hold_known_bands_once() -> None:
    for names in BAND_SETS.values():
        assert len({band(name).common_name for name in names}) == len(names)
