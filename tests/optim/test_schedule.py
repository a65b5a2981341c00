"""Rates in closed form."""

import math
from itertools import pairwise

import pytest

from ssl_sat.optim.schedule import scaled_lr, warmup_cosine


def test_warm_up_peak_middle_and_zero_at_the_last_step():
    rates = [warmup_cosine(step, 110, 10, 2.0) for step in range(110)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(1.0)
    assert rates[9] == 2.0 == max(rates)
    assert rates[59] == pytest.approx(1.0)  # half of total - warm-up
    assert rates[34] == pytest.approx(1.0 + math.cos(math.pi / 4))
    assert rates[109] == 0.0
    assert all(later < earlier for earlier, later in pairwise(rates[9:]))


def test_floor_no_warm_up_and_beyond_the_end():
    assert warmup_cosine(99, 100, 0, 1.0, floor=0.1) == pytest.approx(0.1)
    assert warmup_cosine(49, 100, 0, 1.0, floor=0.1) == pytest.approx(0.55)
    assert warmup_cosine(100, 100, 0, 1.0) == 0.0  # a scheduler asks once more after the last step


def test_warm_up_must_fit():
    with pytest.raises(ValueError, match="does not fit"):
        warmup_cosine(0, 10, 10, 1.0)


def test_the_papers_two_rules_for_lars():
    assert scaled_lr(0.3, 4096) == pytest.approx(4.8)
    assert scaled_lr(0.075 * 16, 4096, 256, "sqrt") == pytest.approx(0.075 * math.sqrt(4096))
    assert scaled_lr(1e-3, 64, scale="none") == 1e-3
    with pytest.raises(ValueError, match="linear"):
        scaled_lr(1.0, 64, scale="cubic")
