"""Corruptions against their closed forms: in reflectance, by band, at every severity, and the same for any batch."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssl_sat.augment.draws import Draws
from ssl_sat.bands import AERIAL_RGB, S2_L1C, S2_L2A, S2_RGB, wavelengths_nm
from ssl_sat.evaluation.corruptions import CORRUPTIONS, SEVERITIES, atmosphere, sensor
from ssl_sat.evaluation.corruptions import bands as band_corruptions
from ssl_sat.evaluation.corruptions.geometry import blurred, shifted
from ssl_sat.evaluation.corruptions.scene import BLACK, WHITE, Corrupter, Scene, Units
from ssl_sat.spec import ConfigError

NAMES = CORRUPTIONS.names()
LAYOUTS = {
    "rgb": ("display", "uint8", 255.0, 0.0, ((S2_RGB, 32),)),
    "aerial": ("display", "uint8", 255.0, 0.0, ((AERIAL_RGB, 32),)),
    "ms13": ("L1C", "uint16", 10000.0, 0.0, ((S2_L1C, 24),)),
    "ben": ("L2A", "uint16", 10000.0, 0.0, ((("B02", "B03", "B04", "B08"), 24), (("B05", "B11"), 12), (("B01",), 4))),
    "float": ("L2A", "float32", 1.0, 0.0, ((S2_L2A, 16),)),
}  # fmt: skip


def _smooth(x_NCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Fields with structure at every length, as images have: white noise cannot become any smoother."""
    fine = torch.rand(*x_NCHW.shape[:2], size, size, generator=torch.Generator().manual_seed(1))
    return 0.75 * torch.nn.functional.interpolate(x_NCHW, size=(size, size), mode="bilinear") + 0.25 * fine


class FakePack:
    """What a Corrupter asks of a pack."""

    def __init__(self, layout: str, n: int = 6) -> None:
        level, dtype, scale, offset, groups = LAYOUTS[layout]
        self.manifest = SimpleNamespace(level=level, dtype=dtype, scale=scale, offset=offset)
        self.groups = [SimpleNamespace(bands=list(names), height=size, width=size) for names, size in groups]
        rng = torch.Generator().manual_seed(0)
        draw = [_smooth(torch.rand(n, len(names), 4, 4, generator=rng), size) for names, size in groups]
        if dtype == "float32":
            self.records = [0.02 + 0.3 * x for x in draw]
        elif dtype == "uint8":
            self.records = [(10 + 200 * x).to(torch.uint8) for x in draw]
        else:
            self.records = [(200 + 3000 * x).to(torch.int16) for x in draw]
        scaled = [(x.float() - offset) / scale for x in self.records]
        self.stats = {
            name: SimpleNamespace(p50=float(x[:, at].median()), p99=float(x[:, at].quantile(0.99)))
            for x, (names, _) in zip(scaled, groups, strict=True)
            for at, name in enumerate(names)
        }


def corrupter(name: str, severity: int, pack: FakePack, seed: int = 0) -> Corrupter:
    corruption = CORRUPTIONS.build(CORRUPTIONS.parse({"name": name}))
    return Corrupter(corruption, name, severity, pack, Units.of(pack), seed)  # type: ignore[arg-type]


def scene(values_NCHW: torch.Tensor, bands: tuple[str, ...], level: str = "L1C") -> Scene:
    ceilings = torch.tensor([[0.1, 0.3]] * len(bands))
    return Scene((values_NCHW,), (bands,), level, 0.0, (ceilings,))


def corrupted(name: str, severity: int, given: Scene, n: int | None = None) -> torch.Tensor:
    draws = Draws(0, 0, f"corruption-{name}", torch.arange(n or len(given.groups[0])))
    return CORRUPTIONS.build(CORRUPTIONS.parse({"name": name}))(given, severity, draws).groups[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_any_band_set_keeps_its_records_and_each_severity_goes_further(name: str, layout: str) -> None:
    pack = FakePack(layout)
    rows_N, units = torch.arange(6) + 100, Units.of(pack)  # type: ignore[arg-type]
    distances = []
    for severity in SEVERITIES:
        found = corrupter(name, severity, pack)(pack.records, rows_N)
        assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in pack.records]
        assert all(torch.isfinite(x.float()).all() for x in found)
        far = [(units.reflectance(x) - units.reflectance(y)).abs() for x, y in zip(found, pack.records, strict=True)]
        distances.append(sum(float(x.sum()) for x in far) / sum(x.numel() for x in far))
    assert distances[0] > 0 and all(after >= before for before, after in pairwise(distances))
    assert distances[-1] > 1.3 * distances[0] or name in ("band_drop", "band_swap")


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_is_corrupted_the_same_in_any_batch(name: str) -> None:
    pack = FakePack("ben")
    change = corrupter(name, 4, pack)
    whole = change(pack.records, torch.arange(6))
    order = torch.tensor([4, 1])
    alone = change([x[order] for x in pack.records], order)
    for x, y in zip(whole, alone, strict=True):
        torch.testing.assert_close(x[order], y)
    other_seed = corrupter(name, 4, pack, seed=1)(pack.records, torch.arange(6))
    drawn = name in ("cloud", "noise", "stripes", "band_drop", "band_swap", "misregistration")
    assert drawn == any(not torch.equal(x, y) for x, y in zip(whole, other_seed, strict=True))


def test_the_offset_of_baseline_0400_is_exactly_1000_digital_numbers() -> None:
    pack = FakePack("ms13")
    found = corrupter("offset", 5, pack)(pack.records, torch.arange(6))
    assert torch.equal(found[0].int(), pack.records[0].int() + 1000)
    steps = [
        corrupter("offset", s, pack)(pack.records, torch.arange(6))[0].int() - pack.records[0].int() for s in SEVERITIES
    ]
    assert [int(step.unique().item()) for step in steps] == [200, 400, 600, 800, 1000]
    bright = [torch.full_like(pack.records[0], -36)]  # 65500 as uint16: clipped, not wrapped
    assert (corrupter("offset", 5, pack)(bright, torch.arange(6))[0].int() & 0xFFFF == 65535).all()


def test_display_values_go_through_the_inverse_stretch() -> None:
    units = Units.of(FakePack("rgb"))  # type: ignore[arg-type]
    every = torch.arange(256, dtype=torch.uint8)
    assert units.reflectance(every)[[0, 255]].tolist() == pytest.approx([BLACK, WHITE], abs=1e-6)
    assert torch.equal(units.records(units.reflectance(every), every), every)
    shifted_by = units.records(units.reflectance(every) + 0.1, every).float() - every
    assert shifted_by[:100].tolist() == pytest.approx([round(0.1 / (WHITE - BLACK) * 255)] * 100, abs=1)
    numbers = torch.arange(-32768, 32768, 7).to(torch.int16)
    whole = Units.of(FakePack("ms13"))  # type: ignore[arg-type]
    assert torch.equal(whole.records(whole.reflectance(numbers), numbers), numbers)  # the bits of uint16, all of them


def test_shot_noise_has_the_variance_of_photons() -> None:
    spec = CORRUPTIONS.parse({"name": "noise"})
    for reflectance in (0.003, 0.02, 0.1, 0.4):
        for severity in (2, 5):
            full = spec.levels[severity - 1]
            given = scene(torch.full((40, 2, 40, 40), reflectance), ("B02", "B08"))
            found = corrupted("noise", severity, given).double()
            expected = reflectance / full + (spec.read_electrons / full) ** 2
            assert found.mean().item() == pytest.approx(reflectance, abs=5 * math.sqrt(expected / found.numel()))
            assert found.var().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("mean", [0.0, 0.4, 3.0, 11.9, 12.1, 40.0, 2000.0])
def test_poisson_counts_follow_their_law(mean: float) -> None:
    from scipy.stats import poisson

    u = (torch.arange(200_000) + 0.5) / 200_000  # every quantile once: no chance in this test
    counts = sensor.poisson(torch.full_like(u, mean), u).numpy()
    assert counts.mean() == pytest.approx(mean, rel=2e-3, abs=1e-6)
    assert counts.var() == pytest.approx(mean, rel=4e-3, abs=1e-6)
    exact = poisson(mean).ppf(u.numpy()) if mean else np.zeros(len(u))
    assert (counts == exact).mean() > (0.9999 if mean < 12 else 0.97)
    assert np.abs(counts - exact).max() <= 1


def test_haze_is_airlight_by_wavelength() -> None:
    bands = S2_L2A
    dark = corrupted("haze", 3, scene(torch.zeros(1, 12, 4, 4), bands))[0, :, 0, 0]
    order = np.argsort(wavelengths_nm(bands))
    assert (np.diff(dark.numpy()[order]) < 0).all()  # most in the blue, least in the shortwave infrared
    t = np.array(atmosphere.haze_transmission(bands, 0.2))
    np.testing.assert_allclose(dark, 0.3 * (1 - t), rtol=1e-5)
    assert atmosphere.haze_transmission(("B03",), 0.2)[0] == pytest.approx(math.exp(-0.2 * (559.8 / 550) ** -1.3))
    same = corrupted("haze", 5, scene(torch.full((1, 12, 4, 4), 0.3), bands))
    torch.testing.assert_close(same, torch.full_like(same, 0.3))  # ground as bright as the haze does not change


def test_levels_are_each_others_inverse_and_rayleighs() -> None:
    assert atmosphere.rayleigh_depth(400) == pytest.approx(0.360, rel=0.01)
    assert atmosphere.rayleigh_depth(550) == pytest.approx(0.0972, rel=0.01)
    bands = S2_L2A
    ground = torch.rand(2, 12, 5, 5, generator=torch.Generator().manual_seed(1)) * 0.4
    for severity in SEVERITIES:
        top = corrupted("l1c_l2a", severity, scene(ground, bands, "L2A"))
        back = corrupted("l1c_l2a", severity, scene(top, bands, "L1C"))
        torch.testing.assert_close(back, ground, atol=1e-5, rtol=1e-4)
    dark = corrupted("l1c_l2a", 3, scene(torch.zeros(1, 12, 2, 2), bands, "L2A"))[0, :, 0, 0]
    mu = math.cos(math.radians(40))
    single = atmosphere.rayleigh_depth(442.7) * 0.75 * (1 + mu**2) / (4 * mu)
    assert dark[bands.index("B01")].item() == pytest.approx(single, rel=1e-5) == pytest.approx(0.0919, abs=1e-3)
    assert dark[bands.index("B12")] < 3e-4


def test_clouds_cover_their_share_and_grow_where_they_are() -> None:
    spec = CORRUPTIONS.parse({"name": "cloud"})
    draws = Draws(3, 0, "corruption-cloud", torch.arange(8))
    opacities = [atmosphere.cloud_opacity(draws, (48, 48), cover) for cover in spec.levels]
    for opacity, cover in zip(opacities, spec.levels, strict=True):
        assert ((opacity > 0).float().mean((1, 2)) - cover).abs().max() <= 1 / 48**2
        assert opacity.min() == 0 and opacity.max() <= 1
    assert all((after >= before).all() for before, after in pairwise(opacities))
    down, right = torch.arange(8), -torch.arange(8)
    torch.testing.assert_close(atmosphere.moved(opacities[2], down, right)[5], opacities[2][5].roll((5, -5), (0, 1)))
    given = scene(torch.full((8, 13, 48, 48), 0.15), S2_L1C)
    found, spectrum = corrupted("cloud", 4, given), dict(zip(S2_L1C, atmosphere.cloud_reflectance(S2_L1C), strict=True))
    assert spectrum["B02"] > spectrum["B11"] > spectrum["B12"] > spectrum["B10"]
    brightest, darkest = found.amax((0, 2, 3)), found.amin((0, 2, 3))
    torch.testing.assert_close(brightest[1], torch.tensor(spectrum["B02"]), atol=1e-4, rtol=0)
    shade = atmosphere.diffuse_share(("B02", "B12"))
    assert darkest[1].item() == pytest.approx(0.15 * shade[0], rel=1e-3)  # full shadow: the light of the sky alone
    assert darkest[12].item() == pytest.approx(0.15 * shade[1], rel=1e-3)


def test_stripes_are_columns_with_a_variance_in_closed_form() -> None:
    found = corrupted("stripes", 4, scene(torch.full((400, 2, 3, 32), 0.2), ("B02", "B08")))
    assert (found[:, :, 0] == found[:, :, 2]).all()
    assert found[:, 0, 0].double().var().item() == pytest.approx(0.08**2 * (0.2**2 + 0.01), rel=0.05)
    assert np.corrcoef(found[:, 0, 0].flatten(), found[:, 1, 0].flatten())[0, 1] == pytest.approx(0, abs=0.03)


def test_saturation_is_a_ceiling_between_median_and_99th_percentile() -> None:
    ramp = torch.linspace(0, 0.5, 64).view(1, 1, 8, 8)
    for severity, share in zip(SEVERITIES, (1.0, 0.75, 0.5, 0.25, 0.1), strict=True):
        found = corrupted("saturation", severity, scene(ramp, ("B04",)))
        torch.testing.assert_close(found, ramp.clamp(max=0.1 + share * 0.2))


def test_dropped_bands_hold_nothing_and_lower_severities_drop_some_of_them() -> None:
    given = scene(torch.full((50, 13, 2, 2), 0.2), S2_L1C)
    counts, before = [], torch.zeros(50, 13, dtype=torch.bool)
    for severity in SEVERITIES:
        dropped = corrupted("band_drop", severity, given)[:, :, 0, 0] == 0
        counts.append(set(dropped.sum(1).tolist()))
        assert (dropped | ~before).all()
        before = dropped
    assert counts == [{2}, {4}, {6}, {8}, {11}]
    pack = FakePack("rgb")
    found = corrupter("band_drop", 5, pack)(pack.records, torch.arange(6))[0]
    assert ((found == 0).all((2, 3)).sum(1) == 2).all()  # one of three stays
    with pytest.raises(ConfigError, match="band_drop needs at least two bands"):
        corrupted("band_drop", 1, scene(torch.zeros(1, 1, 2, 2), ("B04",)))


def test_swapped_bands_are_a_permutation_without_fixed_points_among_the_moved() -> None:
    draws = Draws(0, 0, "corruption-band_swap", torch.arange(60))
    for share, moved in ((0.1, 2), (0.25, 4), (1.0, 13)):
        source = band_corruptions.swapped(draws, S2_L1C, share, 0)
        assert (source.sort(1).values == torch.arange(13)).all()
        assert ((source != torch.arange(13)).sum(1) == moved).all()
    values = torch.arange(13.0).view(1, 13, 1, 1).expand(60, 13, 2, 2).contiguous()
    found = corrupted("band_swap", 5, scene(values, S2_L1C))[:, :, 0, 0].long()
    assert torch.equal(found, band_corruptions.swapped(draws, S2_L1C, 1.0, 0))


def test_blur_keeps_the_mean_and_damps_a_wave_by_its_gaussian() -> None:
    x = torch.arange(64.0)
    for sigma in (0.8, 1.2, 2.7):
        frequency = 2 * math.pi / 16
        wave = (frequency * x).cos().view(1, 1, 1, 64).expand(1, 1, 64, 64)
        damped = blurred(wave.contiguous(), sigma)
        amplitude = (damped * wave)[0, 0, 32, 16:48].sum() / wave[0, 0, 32, 16:48].square().sum()
        assert amplitude.item() == pytest.approx(math.exp(-0.5 * (sigma * frequency) ** 2), rel=2e-3)
    torch.testing.assert_close(blurred(torch.full((1, 2, 8, 8), 0.3), 2.0), torch.full((1, 2, 8, 8), 0.3))


def test_misregistration_moves_each_band_by_its_distance() -> None:
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    plane = (0.01 * rows + 0.02 * columns).expand(3, 2, 20, 20).contiguous()
    down, right = torch.tensor([[0.5, -1.0]] * 3), torch.tensor([[1.5, 0.25]] * 3)
    found = shifted(plane, down, right)[:, :, 4:16, 4:16]
    expected = plane[:, :, 4:16, 4:16] - 0.01 * down[:, :, None, None] - 0.02 * right[:, :, None, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_resampling_keeps_constants_and_leaves_coarse_groups_alone() -> None:
    pack = FakePack("ben")
    found = corrupter("resample", 2, pack)(pack.records, torch.arange(6))
    assert not torch.equal(found[0], pack.records[0])
    assert torch.equal(found[1], pack.records[1]) and torch.equal(found[2], pack.records[2])
    flat = corrupted("resample", 5, scene(torch.full((1, 1, 30, 30), 0.25), ("B04",)))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.25))


def test_levels_must_be_in_order() -> None:
    with pytest.raises(ConfigError, match="five positive levels are needed, each beyond the one before"):
        CORRUPTIONS.parse({"name": "haze", "levels": [0.1, 0.3, 0.2, 0.4, 0.5]})
