"""The picture of views: what its pixels are, that the command draws and trains nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.packs import write
from PIL import Image

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.training.show_views import DRAWS, PATCHES, composite, title, values_of

BANDS = ("B8A", "B02", "B03", "B04")
MEAN, STD = [0.3, 0.05, 0.07, 0.06], [0.1, 0.02, 0.03, 0.04]


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "pack", 5, groups=((BANDS, 16, 10.0),))


def test_pictures_are_in_the_packs_unit_and_the_first_is_the_view_of_evaluation(pack):
    spec = AugmentSpec(name="d4", flip_horizontal=1.0)
    views = Views(
        spec, [(BANDS, 16, 16)], bands=BANDS, scale=1e4, offset=0.0, mean_C=MEAN, std_C=STD, image_size=16, num_views=3
    )
    batch = pack.batch(np.arange(5))
    values = values_of(views, (MEAN, STD), batch.groups, batch.rows_N)
    expected = batch.groups[0].view(torch.uint16).float() / 1e4
    assert values.shape == (5, 4, 4, 16, 16)
    torch.testing.assert_close(values[:, 0], expected, rtol=1e-5, atol=1e-5)
    for draw in (1, 2, 3):
        torch.testing.assert_close(values[:, draw], expected.flip(3), rtol=1e-5, atol=1e-5)


def test_composite_takes_red_green_blue_and_one_range_a_patch():
    values = torch.zeros(2, 3, 4, 10, 10)
    values[0, 0, 3] = torch.linspace(0.0, 1.0, 100).view(10, 10)  # red of the view of evaluation
    values[0, 1, 3] = 0.5
    values[0, 2, 1] = 7.0  # blue of a draw, beyond the range
    image = composite(values, BANDS, stretch=True)
    assert image.shape == (2, 3, 10, 10, 3) and image.min() >= 0 and image.max() <= 1
    assert image[0, 0, ..., 0].max() == 1 and np.diff(image[0, 0, ..., 0].ravel()).min() >= 0
    assert (image[0, 2, ..., 2] == 1).all() and (image[0, 1, ..., 1:] == 0).all()
    as_it_is = composite(values, BANDS, stretch=False)
    assert (as_it_is[0, 1, ..., 0] == 0.5).all()
    grey = composite(values[:, :, :1] + 0.25, BANDS[:1], stretch=False)
    assert (grey == 0.25).all()


def test_the_title_names_what_is_on(pack):
    text = title(AugmentSpec(name="eo_light", crop_scale=(0.5, 1.0), rot90="each"), pack, 16)
    assert text == "eo_light on fake, 16 px\ncrop_scale 0.5-1, rot90 each"


def test_the_command_draws_and_trains_nothing(command, outputs: Path):
    line = ("data=scenes", "data.patches_per_class=3", "encoder=cnn", "augment=simclr_ms", "show_views=true")
    done = command("pretrain", *line, "trainer.progress=false")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1])
    assert path.parent == Path("outputs/views") and path.name.startswith("simclr_ms-scenes-")
    width, height = Image.open(path).size
    assert width > 100 * (1 + DRAWS) and height > 100 * PATCHES
    assert not (outputs / "pretrain").exists()
