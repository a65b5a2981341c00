"""Counter-based draws: uniform, independent, and a function of the sample alone."""

import numpy as np
import torch
from scipy import stats

from ssl_sat.augment.draws import Draws, _mix

ROWS = torch.arange(4000)
GOLDEN = [3435185189768502196, 4956730067610148063]


def test_the_hash_is_splitmix64():
    def reference(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    inputs = [0, 1, 12345, -1, -(2**63), 2**63 - 1, 2**62 + 7]
    ours = [value % 2**64 for value in _mix(torch.tensor(inputs)).tolist()]
    assert ours == [reference(value % 2**64) for value in inputs]


def test_uniform_normal_and_integers_have_their_distributions():
    draws = Draws(0, 3, 1, ROWS)
    assert stats.kstest(draws.uniform("a", 5).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(draws.uniform("b", low=-2, high=3).numpy(), stats.uniform(-2, 5).cdf).pvalue > 1e-3
    assert stats.kstest(draws.normal("c", 5).flatten().numpy(), "norm").pvalue > 1e-3
    counts = np.bincount(draws.integers("turns", 4).numpy(), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert abs(draws.chance("p", 0.3).float().mean().item() - 0.3) < 0.03
    assert not draws.chance("p", 0.0).any() and draws.chance("p", 1.0).all()


def test_streams_samples_views_epochs_and_seeds_are_independent():
    base = Draws(0, 0, 0, ROWS).uniform("a", 2)
    others = [
        Draws(0, 0, 0, ROWS).uniform("b", 2), Draws(0, 0, 1, ROWS).uniform("a", 2),
        Draws(0, 1, 0, ROWS).uniform("a", 2), Draws(1, 0, 0, ROWS).uniform("a", 2), base.roll(1, 0), base.roll(1, 1),
    ]  # fmt: skip
    for other in others:
        assert abs(np.corrcoef(base.flatten(), other.flatten())[0, 1]) < 0.05
    assert len(base[:, 0].unique()) > 3990  # 24 bits: few of 4,000 samples may coincide


def test_a_draw_does_not_depend_on_the_batch():
    whole = Draws(0, 0, 0, ROWS)
    some = torch.tensor([17, 3, 3999])
    part = Draws(0, 0, 0, some)
    assert torch.equal(part.bits("a", 7), whole.bits("a", 7)[some])
    assert torch.equal(part.uniform("a", 7), whole.uniform("a", 7)[some])
    torch.testing.assert_close(part.normal("a", 7), whole.normal("a", 7)[some], rtol=0, atol=1e-6)


def test_golden_values():
    """A change here changes every view of every published run: raise the components' versions."""
    assert Draws(0, 0, 0, torch.tensor([0, 1])).bits("crop-top").tolist() == GOLDEN
