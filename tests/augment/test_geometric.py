"""Matrices against torchvision, and exact values on tiny arrays."""

import pytest
import torch
import torchvision.transforms.v2.functional as tv

from ssl_sat.augment import geometric as geo
from ssl_sat.augment.draws import Draws


def image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size_in, size_out", [(120, 64), (64, 64), (20, 64), (256, 32)])
def test_crop_and_resize_equal_torchvision(size_in, size_out):
    x = image(40, 2, size_in, size_in)
    draws = Draws(0, 0, 0, torch.arange(40))
    boxes = geo.random_boxes(draws, size_in, size_in, (0.05, 1.0), (0.5, 2.0))
    rows = geo.resample_matrix(boxes.top, boxes.height, size_in, size_out)
    columns = geo.resample_matrix(boxes.left, boxes.width, size_in, size_out)
    ours = geo.separable(x, rows, columns)
    for k in range(40):
        box = [int(value[k]) for value in boxes]
        theirs = tv.resized_crop(x[k].double(), *box, [size_out, size_out], antialias=True)
        assert (ours[k] - theirs).abs().max() <= 1e-6


def test_boxes_follow_torchvisions_distribution():
    boxes = geo.random_boxes(Draws(0, 0, 0, torch.arange(5000)), 120, 120, (0.2, 1.0), (3 / 4, 4 / 3))
    assert torch.equal(boxes.top, boxes.top.floor()) and torch.equal(boxes.height, boxes.height.round())
    assert (boxes.top >= 0).all() and (boxes.top + boxes.height <= 120).all()
    assert (boxes.left >= 0).all() and (boxes.left + boxes.width <= 120).all()
    from torchvision.transforms import RandomResizedCrop

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params = [RandomResizedCrop.get_params(image(1, 120, 120), (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(5000)]
    theirs = torch.tensor(params, dtype=torch.float32)
    for k, ours in enumerate(boxes):
        assert abs(ours.mean() - theirs[:, k].mean()) < 4 * theirs[:, k].std() / 5000**0.5 * 2**0.5
        assert abs(ours.std() - theirs[:, k].std()) < 0.06 * theirs[:, k].std()


def test_a_box_that_never_fits_becomes_the_central_one():
    boxes = geo.random_boxes(Draws(0, 0, 0, torch.arange(5)), 10, 100, (1.0, 1.0), (1.0, 1.0))
    assert [value[0].item() for value in boxes] == [0.0, 45.0, 10.0, 10.0]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_right_angles_and_flips_are_exact(turns, mirror):
    x = torch.arange(18.0).view(1, 2, 3, 3)
    flip_y, flip_x, transpose = geo.turn_flips(torch.tensor([turns]))
    eye = geo.resample_matrix(torch.zeros(1), torch.full((1,), 3.0), 3, 3)
    y = geo.separable(x, geo.flip_rows(eye, flip_y), geo.flip_rows(eye, flip_x ^ mirror))
    y = y.transpose(2, 3) if transpose[0] else y
    assert torch.equal(y, torch.rot90(x.flip(3) if mirror else x, turns, (2, 3)))


@pytest.mark.parametrize("sigma, kernel", [(0.1, 3), (0.7, 3), (2.0, 9)])
def test_blur_equals_torchvision(sigma, kernel):
    x = image(2, 3, 20, 20)
    blur = geo.blur_matrix(geo.blur_taps(torch.full((2,), sigma), torch.tensor([True, False]), kernel), 20)
    y = geo.separable(x, blur, blur)
    torch.testing.assert_close(y[0], tv.gaussian_blur(x[0], [kernel, kernel], [sigma, sigma]), rtol=0, atol=1e-6)
    torch.testing.assert_close(y[1], x[1], rtol=0, atol=1e-7)


def test_rows_sum_to_one_for_fractional_boxes():
    start = torch.tensor([0.0, 4.67, 19.4, 7.0])
    length = torch.tensor([20.0, 10.67, 0.6, 0.2])
    weight = geo.resample_matrix(start, length, 20, 64)
    torch.testing.assert_close(weight.sum(2), torch.ones(4, 64))
    assert (weight >= 0).all() and (weight[1, :, :4] == 0).all() and (weight[1, :, 16:] == 0).all()


@pytest.mark.parametrize("evaluation, gsd", [("crop", 10.0), ("resize", 18.75)])
def test_ground_sampling_distance_that_the_encoder_sees(evaluation, gsd):
    assert geo.gsd_out(10.0, 120, 120, 64, evaluation) == gsd
    assert geo.gsd_out(10.0, 32, 32, 64, evaluation) == 5.0
