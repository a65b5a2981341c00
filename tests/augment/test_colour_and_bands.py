"""RGB operations against torchvision; radiometry in reflectance against formulas."""

import pytest
import torch
import torchvision.transforms.v2.functional as tv

from ssl_sat.augment import display, radiometric
from ssl_sat.augment.draws import Draws
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.bands import S2_L2A


def image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_color_jitter_equals_torchvision_with_one_factor_per_sample():
    x = image(12, 3, 16, 16)
    x[0] = 0.5  # grey: no hue
    brightness, contrast, saturation = (0.6 + 0.8 * image(3, 12)).unbind(0)
    hue = torch.linspace(-0.5, 0.5, 12)
    ours = display.color_jitter(x, brightness, contrast, saturation, hue, 1.0)
    for k in range(12):
        y = tv.adjust_brightness(x[k], brightness[k].item())
        y = tv.adjust_contrast(y, contrast[k].item())
        y = tv.adjust_saturation(y, saturation[k].item())
        torch.testing.assert_close(ours[k], tv.adjust_hue(y, hue[k].item()), rtol=0, atol=2e-6)


def test_grayscale_equals_torchvision():
    x = image(2, 3, 8, 8)
    torch.testing.assert_close(display.luma(x), tv.rgb_to_grayscale(x), rtol=0, atol=1e-6)


def test_unbounded_reflectance_is_not_clipped():
    x = torch.full((1, 3, 4, 4), 0.9)
    one = torch.ones(1)
    bright = display.color_jitter(x, one * 1.4, one, one, one * 0, float("inf"))
    torch.testing.assert_close(bright, x * 1.4)


def test_jitter_is_gain_offset_brightness_contrast_about_the_mean():
    spec = AugmentSpec(name="t", jitter=1.0, gain=0.2, offset=0.02, brightness=0.3, contrast=0.4)
    draws = Draws(0, 0, 0, torch.arange(6))
    r = image(6, 4, 8, 8)
    gain, offset = radiometric.jitter(spec, draws, r.mean((2, 3)))
    g = draws.uniform("gain", 4, low=0.8, high=1.2)[:, :, None, None]
    o = draws.uniform("offset", 4, low=-0.02, high=0.02)[:, :, None, None]
    b = draws.uniform("brightness", 1, low=0.7, high=1.3)[:, :, None, None]
    c = draws.uniform("contrast", 1, low=0.6, high=1.4)[:, :, None, None]
    step = (g * r + o) * b
    expected = step.mean((2, 3), keepdim=True) + c * (step - step.mean((2, 3), keepdim=True))
    torch.testing.assert_close(radiometric.affine(r.clone(), gain, offset, None), expected, rtol=1e-5, atol=1e-6)


def test_smoothing_mixes_neighbours_in_wavelength():
    matrix = radiometric.neighbour_matrix(S2_L2A[::-1])
    names = S2_L2A[::-1]
    b04 = matrix[names.index("B04")]
    assert b04[names.index("B03")] == b04[names.index("B05")] == 0.5 and b04.sum() == 1
    assert matrix[names.index("B12"), names.index("B11")] == 1
    spec = AugmentSpec(name="t", smoothing=0.5, smoothing_share=0.6)
    drawn = radiometric.smoothing_matrix(spec, Draws(0, 0, 0, torch.arange(200)), matrix)
    torch.testing.assert_close(drawn.sum(2), torch.ones(200, 12))
    untouched = (drawn == torch.eye(12)).flatten(1).all(1).float().mean()
    assert 0.35 < untouched < 0.65


def test_affine_with_mixing_equals_three_steps():
    y, gain, offset, mixing = image(3, 4, 5, 5), image(3, 4), image(3, 4), image(3, 4, 4)
    step = gain[:, :, None, None] * y + offset[:, :, None, None]
    expected = torch.einsum("ncd,ndhw->nchw", mixing, step)
    torch.testing.assert_close(radiometric.affine(y.clone(), gain, offset, mixing), expected)


def test_band_drop_always_leaves_a_band():
    keep = radiometric.keep_bands(Draws(0, 0, 0, torch.arange(500)), 0.9, 12)
    assert (keep.sum(1) >= 1).all() and set(keep.unique().tolist()) == {0.0, 1.0}
    share = 1 - radiometric.keep_bands(Draws(0, 0, 0, torch.arange(2000)), 0.1, 12).mean()
    assert share.item() == pytest.approx(0.1, abs=0.01)


def test_noise_has_its_deviation_per_band_and_differs_between_samples():
    sigma = torch.tensor([0.5, 2.0])
    noise = radiometric.add_noise(torch.zeros(100, 2, 32, 32), Draws(0, 0, 0, torch.arange(100)), 0.7, sigma)
    noisy = noise.flatten(1).any(1)
    assert 0.5 < noisy.float().mean() < 0.9
    torch.testing.assert_close(noise[noisy].std((0, 2, 3)), sigma, rtol=0.02, atol=0)
    flat = noise[noisy][:, 0].flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 0.2


def test_cutout_is_one_square_inside_the_view():
    cut = radiometric.cut_out(torch.ones(200, 2, 20, 20), Draws(0, 0, 0, torch.arange(200)), 0.5, 6)
    area = (cut[:, 0] == 0).sum((1, 2))
    assert set(area.tolist()) == {0, 36} and torch.equal(cut[:, 0], cut[:, 1])
    assert 0.35 < (area > 0).float().mean() < 0.65
