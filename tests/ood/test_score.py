"""Scores refuse everything that is not finite, one-dimensional and higher for OOD."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_sat.ood.score import Scores


def test_values_become_float64_and_read_only() -> None:
    source = np.array([1, 2], dtype=np.float32)
    scores = Scores("x", source)  # type: ignore[arg-type]
    source[0] = 9
    assert scores.values.dtype == np.float64 and scores.values.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0] = 3


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [[1.0, 2.0]], 1.0])
def test_bad_values_are_refused(values: object) -> None:
    with pytest.raises(ValueError, match="'x'"):
        Scores("x", np.array(values))


def test_another_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="higher_is must be 'ood'"):
        Scores("x", np.zeros(2), higher_is="id")  # type: ignore[arg-type]
