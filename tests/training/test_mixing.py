"""Mixup and CutMix: the formula, the Beta distribution, and draws that no device and no resume changes."""

import numpy as np
import pytest
import torch
from scipy import stats

from ssl_sat.augment.draws import Draws
from ssl_sat.training.finetune_spec import MixSpec
from ssl_sat.training.mixing import beta_quantiles, mix


def batch(count: int = 12, side: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches, targets of one class each, and rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, side, side, generator=generator)
    return x, torch.eye(count), torch.randperm(1000, generator=generator)[:count]


def draws(rows: torch.Tensor, epoch: int = 3) -> Draws:
    return Draws(0, epoch, "mix", rows)


def test_mixup_blends_neighbours_with_the_share_that_the_targets_have():
    x, y, rows = batch()
    mixed, target = mix(x, y, MixSpec(mixup=0.4), draws(rows))
    own = target.diagonal()
    partner = torch.arange(12) ^ 1
    torch.testing.assert_close(target.sum(1), torch.ones(12))
    torch.testing.assert_close(target[torch.arange(12), partner], 1 - own)
    share = own[:, None, None, None]
    torch.testing.assert_close(mixed, share * x + (1 - share) * x[partner])
    assert len(set(own.tolist())) == 12  # each patch has a share of its own


def test_cutmix_pastes_a_box_whose_area_is_in_the_targets():
    x, y, rows = batch(count=64)
    mixed, target = mix(x, y, MixSpec(cutmix=1.0), draws(rows))
    partner = torch.arange(64) ^ 1
    foreign = (mixed != x).all(1)
    assert torch.equal(mixed, torch.where(foreign[:, None], x[partner], x))
    torch.testing.assert_close(1 - foreign.float().mean((1, 2)), target.diagonal())
    for mask in foreign:
        ys, xs = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(ys):
            assert mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].all()  # one rectangle
    assert 0.2 < foreign.float().mean() < 0.5  # Beta(1, 1) has mean 1/2, and borders cut boxes off


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 2.0])
def test_shares_are_beta_distributed(alpha):
    rows = torch.arange(20_000)
    _, target = mix(torch.zeros(20_000, 1, 1, 1), torch.eye(2).repeat(10_000, 1), MixSpec(mixup=alpha), draws(rows))
    own = torch.where(torch.arange(20_000) % 2 == 0, target[:, 0], target[:, 1]).double().numpy()
    for at in (1e-6, 1e-3, 0.05, 0.2, 0.5, 0.8, 0.95, 0.999):  # beyond it float32 rounds to 1
        assert (own <= at).mean() == pytest.approx(stats.beta(alpha, alpha).cdf(at), abs=1.95 / np.sqrt(20_000)), at
    assert own.mean() == pytest.approx(0.5, abs=0.015)
    assert (np.diff(beta_quantiles(alpha)) >= 0).all()


def test_two_devices_mix_what_one_mixes_and_any_run_again():
    x, y, rows = batch(16)
    spec = MixSpec(mixup=0.2, cutmix=1.0, probability=0.8)
    whole = mix(x, y, spec, draws(rows))
    halves = [mix(x[part], y[part], spec, draws(rows[part])) for part in (slice(0, 8), slice(8, 16))]
    for at in range(2):
        assert torch.equal(torch.cat([half[at] for half in halves]), whole[at])
    torch.manual_seed(99)
    assert torch.equal(mix(x, y, spec, draws(rows))[0], whole[0])
    assert not torch.equal(mix(x, y, spec, draws(rows, epoch=4))[0], whole[0])


def test_probability_switch_and_a_patch_without_partner():
    x, y, rows = batch(2001, side=4)
    y = torch.eye(3)[torch.arange(2001) % 3]
    mixed, target = mix(x, y, MixSpec(mixup=1.0, probability=0.3), draws(rows.repeat(3)[:2001]))
    assert torch.equal(mixed[-1], x[-1]) and torch.equal(target[-1], y[-1])
    own = torch.arange(4001)
    x, y, _ = batch(4000, side=8)
    y = torch.eye(2).repeat(2000, 1)
    mixed, target = mix(x, y, MixSpec(mixup=1.0, cutmix=1.0, switch=0.25), draws(own[:4000]))
    blended = (mixed != x).flatten(1).all(1) & (mixed != x[torch.arange(4000) ^ 1]).flatten(1).all(1)
    assert blended.float().mean() == pytest.approx(0.75, abs=0.03)
    mixed, target = mix(x, y, MixSpec(mixup=1.0, probability=0.3), draws(own[:4000]))
    assert (mixed != x).flatten(1).any(1).float().mean() == pytest.approx(0.3, abs=0.03)
    assert not MixSpec().on and MixSpec(cutmix=1.0).on and not MixSpec(mixup=1.0, probability=0).on
