"""The CPU kernel equals the matrix products that every other device uses."""

import numpy as np
import pytest
import torch

from ssl_sat.augment import geometric as geo
from ssl_sat.augment.cpu_kernel import Taps, resample_taps, separable_into
from ssl_sat.augment.draws import Draws


def taps_of(matrix_NSX):
    """What is not zero of a dense matrix."""
    rows = [[np.flatnonzero(row) for row in sample] for sample in matrix_NSX.numpy()]
    count = np.array([max(found[-1] - found[0] + 1 for found in sample) for sample in rows])
    width = matrix_NSX.shape[2]
    first = np.array([[min(found[0], width - n) for found in sample] for sample, n in zip(rows, count, strict=True)])
    weight = np.zeros((*first.shape, count.max()), np.float32)
    for n, s in np.ndindex(first.shape):
        weight[n, s, : count[n]] = matrix_NSX[n, s, first[n, s] : first[n, s] + count[n]]
    return Taps(first, weight, count)


def dense(taps, width):
    """The matrix that taps stand for; those after a sample's count must be zero."""
    matrix = np.zeros((*taps.first_NS.shape, width), np.float32)
    for n, s in np.ndindex(taps.first_NS.shape):
        first, count = taps.first_NS[n, s], taps.count_N[n]
        assert first >= 0 and first + count <= width and not taps.weight_NST[n, s, count:].any()
        matrix[n, s, first : first + count] = taps.weight_NST[n, s, :count]
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
@pytest.mark.parametrize("size_in, size_out", [(120, 64), (20, 64), (9, 8), (300, 40), (40, 100)])
def test_equals_the_matrix_products(dtype, size_in, size_out):
    generator = torch.Generator().manual_seed(0)
    high = 256 if dtype == torch.uint8 else 65536
    whole = torch.randint(0, high, (6, 4, size_in, size_in), generator=generator)
    x = whole.to(torch.uint16).view(torch.int16) if dtype == torch.int16 else whole.to(dtype)
    draws = Draws(0, 0, 0, torch.arange(6))
    boxes = geo.random_boxes(draws, size_in, size_in, (0.2, 1.0), (0.75, 1.33))
    blur = geo.blur_matrix(geo.blur_taps(torch.ones(6), draws.chance("blur", 0.5), 3), size_out)
    rows = blur @ geo.flip_rows(
        geo.resample_matrix(boxes.top, boxes.height, size_in, size_out), draws.chance("flip", 0.5)
    )
    columns = blur @ geo.resample_matrix(boxes.left, boxes.width, size_in, size_out)
    transpose = torch.tensor([True, False] * 3)
    out = torch.full((2, 6, 5, size_out, size_out), -1.0)
    both = [Taps(*(np.concatenate([one, one]) for one in taps_of(matrix))) for matrix in (rows, columns)]
    separable_into(out, x, *both, [transpose, ~transpose], take=[3, 0, 2], place=[0, 4, 1])
    expected = geo.separable(whole.double(), rows.double(), columns.double())
    for view, marked in enumerate((transpose, ~transpose)):
        turned = torch.where(marked[:, None, None, None], expected.transpose(2, 3), expected)
        assert (out[view, :, [0, 4, 1]] - turned[:, [3, 0, 2]]).abs().max() <= 1e-6 * high
    assert (out[:, :, 2:4] == -1.0).all()  # channels of other groups are left alone


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size_in, size_out, share", [(120, 64, 1.0), (20, 64, 1 / 6), (60, 64, 0.5), (9, 64, 1.0)])
def test_matrices_equal_those_of_the_other_devices(size_in, size_out, share, kernel):
    draws = Draws(0, 0, 0, torch.arange(40))
    finest = round(size_in / share)
    boxes = geo.random_boxes(draws, finest, finest, (0.02, 1.0), (0.5, 2.0))
    flip, applied = draws.chance("flip", 0.5), draws.chance("blur", 0.5)
    taps = geo.blur_taps(draws.uniform("sigma", low=0.1, high=2.0), applied, kernel)
    plain = geo.resample_matrix(boxes.top * share, boxes.height * share, size_in, size_out).double()
    expected = geo.blur_matrix(taps, size_out).double() @ geo.flip_rows(plain, flip)
    found = dense(resample_taps(boxes.top * share, boxes.height * share, size_in, size_out, flip, taps), size_in)
    assert found.shape == (40, size_out, size_in)
    assert (found - expected).abs().max() <= 1e-6


def test_matrices_without_flip_and_blur():
    start, length = torch.tensor([0.0, 3.0]), torch.tensor([10.0, 4.0])
    found = dense(resample_taps(start, length, 10, 8, None, None), 10)
    assert (found - geo.resample_matrix(start, length, 10, 8)).abs().max() <= 1e-6
