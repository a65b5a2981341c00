"""The CPU kernel equals the matrix products that every other device uses."""

import pytest
import torch

from ssl_sat.augment import geometric as geo
from ssl_sat.augment.cpu_kernel import separable_into
from ssl_sat.augment.draws import Draws


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
@pytest.mark.parametrize("size_in, size_out", [(120, 64), (20, 64), (9, 8)])
def test_equals_the_matrix_products(dtype, size_in, size_out):
    generator = torch.Generator().manual_seed(0)
    high = 256 if dtype == torch.uint8 else 65536
    whole = torch.randint(0, high, (6, 4, size_in, size_in), generator=generator)
    x = whole.to(torch.uint16).view(torch.int16) if dtype == torch.int16 else whole.to(dtype)
    draws = Draws(0, 0, 0, torch.arange(6))
    boxes = geo.random_boxes(draws, size_in, size_in, (0.2, 1.0), (0.75, 1.33))
    blur = geo.blur_matrix(torch.ones(6), draws.chance("blur", 0.5), size_out, 3)
    rows = blur @ geo.flip_rows(
        geo.resample_matrix(boxes.top, boxes.height, size_in, size_out), draws.chance("flip", 0.5)
    )
    columns = blur @ geo.resample_matrix(boxes.left, boxes.width, size_in, size_out)
    transpose = torch.tensor([True, False] * 3)
    out = torch.full((6, 5, size_out, size_out), -1.0)
    separable_into(out, x, rows, columns, transpose, take=[3, 0, 2], place=[0, 4, 1])
    expected = geo.separable(whole.double(), rows.double(), columns.double())
    expected = torch.where(transpose[:, None, None, None], expected.transpose(2, 3), expected)
    assert (out[:, [0, 4, 1]] - expected[:, [3, 0, 2]]).abs().max() <= 1e-6 * high
    assert (out[:, 2:4] == -1.0).all()  # channels of other groups are left alone
