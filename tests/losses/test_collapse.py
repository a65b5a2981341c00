"""Measures of collapse against closed forms."""

import pytest
import torch

from ssl_sat.losses.collapse import embedding_std, pair_similarities, rankme


def test_rankme_of_known_spectra():
    assert rankme(torch.eye(10, dtype=torch.float64)).item() == pytest.approx(10.0, rel=1e-4)
    assert rankme(torch.ones(50, 8)).item() == pytest.approx(1.0, abs=1e-3)
    half = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    assert rankme(half).item() == pytest.approx(3.0, rel=1e-4)


def test_embedding_std_of_sphere_and_point():
    z = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert embedding_std(z).item() == pytest.approx(1.0, abs=0.02)
    assert embedding_std(torch.ones(10, 64)).item() == pytest.approx(0.0, abs=1e-6)


def test_pair_similarities_equal_the_dense_matrix():
    z = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    u = torch.nn.functional.normalize(z, dim=-1).flatten(0, 1)
    s = u @ u.T
    index = torch.arange(18)
    positive = (index[:, None] - index[None]).abs() == 9
    negative = ~positive & ~torch.eye(18, dtype=torch.bool)
    mean_positive, mean_negative = pair_similarities(z)
    assert mean_positive.item() == pytest.approx(s[positive].mean().item(), abs=1e-6)
    assert mean_negative.item() == pytest.approx(s[negative].mean().item(), abs=1e-6)


def test_pair_similarities_of_three_views_equal_the_dense_matrix():
    z = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    u = torch.nn.functional.normalize(z, dim=-1).flatten(0, 1)
    s, patch = u @ u.T, torch.arange(21) % 7
    same = patch[:, None] == patch[None]
    mean_positive, mean_negative = pair_similarities(z)
    assert mean_positive.item() == pytest.approx(s[same & ~torch.eye(21, dtype=torch.bool)].mean().item(), abs=1e-6)
    assert mean_negative.item() == pytest.approx(s[~same].mean().item(), abs=1e-6)
