"""Whole views: what they equal, what they depend on, what they refuse."""

from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2.functional as tv
import yaml

from ssl_sat.augment import AUGMENTS
from ssl_sat.augment import views as module
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.bands import S2_L2A, S2_RGB
from ssl_sat.spec import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "augment"
LAYOUT = [
    (("B02", "B03", "B04", "B08"), 120, 120),
    (("B05", "B06", "B07", "B8A", "B11", "B12"), 60, 60),
    (("B01", "B09"), 20, 20),
]
MULTISPECTRAL = ("none", "d4", "eo_light", "simclr_ms")


def recipe(name: str, **changes) -> AugmentSpec:
    return AUGMENTS.parse(yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changes)


def patches(count: int, high: int = 4000) -> tuple[torch.Tensor, ...]:
    """Smooth, plausible patches: a coarse random field plus texture, as bits of uint16."""
    generator = torch.Generator().manual_seed(0)
    groups = []
    for bands, height, width in LAYOUT:
        coarse = torch.rand(count, len(bands), 5, 5, generator=generator)
        field = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        field = field * 0.8 + 0.2 * torch.rand(field.shape, generator=generator)
        groups.append((field * high).to(torch.uint16).view(torch.int16))
    return tuple(groups)


def views(spec: AugmentSpec, bands: tuple[str, ...] = S2_L2A, image_size: int = 64, **changes) -> Views:
    count = len(bands)
    values = {"scale": 1e4, "offset": 0.0, "mean_C": [0.2] * count, "std_C": [0.1] * count, "num_views": 2, "seed": 0}
    return Views(spec, LAYOUT, bands=bands, image_size=image_size, **(values | changes))


def band(groups: tuple[torch.Tensor, ...], name: str) -> torch.Tensor:
    for (names, _, _), x in zip(LAYOUT, groups, strict=True):
        if name in names:
            return x[:, names.index(name)].view(torch.uint16).double()
    raise KeyError(name)


def test_center_crop_keeps_the_scale_and_resize_takes_the_whole_patch():
    groups = patches(3)
    crop = views(recipe("none")).center(groups)
    whole = views(recipe("none", eval="resize")).center(groups)
    for at, name in enumerate(S2_L2A):
        x = (band(groups, name) / 1e4 - 0.2) / 0.1
        torch.testing.assert_close(
            whole[:, at].double(), tv.resize(x, [64, 64], antialias=True), rtol=0, atol=1e-5, msg=name
        )
        if x.shape[-1] == 120:
            torch.testing.assert_close(crop[:, at].double(), x[:, 28:92, 28:92], rtol=0, atol=1e-5)
        if x.shape[-1] == 60:
            expected = tv.resized_crop(x, 14, 14, 32, 32, [64, 64], antialias=True)
            torch.testing.assert_close(crop[:, at].double(), expected, rtol=0, atol=1e-5)
    assert views(recipe("none")).gsd_out(10.0) == 10.0
    assert views(recipe("none", eval="resize")).gsd_out(10.0) == 18.75


def test_without_operations_a_training_view_is_the_view_of_evaluation():
    groups = patches(4)
    v = views(recipe("none"))
    x = v(groups, torch.arange(4), epoch=3)
    assert x.shape == (2, 4, 12, 64, 64) and x.dtype == torch.float32
    torch.testing.assert_close(x[0], v.center(groups), rtol=0, atol=2e-6)
    assert torch.equal(x[0], x[1])


def test_crop_of_all_resolutions_equals_torchvision():
    """One crop box over three grids; 20 m and 60 m boxes are whole pixels where the 10 m box is a multiple of six."""
    groups = patches(30)
    v = views(AugmentSpec(name="crop", crop_scale=(0.3, 0.9)), num_views=1)
    x = v(groups, torch.arange(30), epoch=0)[0]
    from ssl_sat.augment.draws import Draws
    from ssl_sat.augment.geometric import random_boxes

    boxes = random_boxes(Draws(0, 0, 0, torch.arange(30)), 120, 120, (0.3, 0.9), (3 / 4, 4 / 3))
    checked = 0
    for k in range(30):
        box = [int(value[k]) for value in boxes]
        for at, name in enumerate(S2_L2A):
            pixels = band(groups, name)[k : k + 1]
            factor = 120 // pixels.shape[-1]
            if all(value % factor == 0 for value in box):
                expected = tv.resized_crop(pixels, *[value // factor for value in box], [64, 64], antialias=True)
                expected = (expected / 1e4 - 0.2) / 0.1
                assert (x[k, at] - expected[0]).abs().max() < 1e-5
                checked += factor > 1
    assert checked > 0


@pytest.mark.parametrize("bands", [S2_L2A, ("B8A", "B02", "B01", "B04")], ids=["all", "some"])
@pytest.mark.parametrize("name", MULTISPECTRAL)
def test_the_matrix_products_of_other_devices_give_the_same_views(monkeypatch, name, bands):
    groups, v = patches(6), views(recipe(name), bands)
    sparse, center = v(groups, torch.arange(6), 1), v.center(groups)
    monkeypatch.setattr(module, "_sparse", lambda device: False)
    torch.testing.assert_close(v(groups, torch.arange(6), 1), sparse, rtol=0, atol=1e-5)
    torch.testing.assert_close(v.center(groups), center, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["simclr_rgb", "study"])
def test_so_they_do_with_operations_on_colours(monkeypatch, name):
    groups, v = patches(6), views(recipe(name), S2_RGB, mean_C=[0.2] * 3, std_C=[0.1] * 3)
    sparse = v(groups, torch.arange(6), 1)
    monkeypatch.setattr(module, "_sparse", lambda device: False)
    difference = (v(groups, torch.arange(6), 1) - sparse).abs()
    assert difference.median() < 1e-6 and (difference > 1e-4).float().mean() < 1e-3  # solarise jumps at its threshold


@pytest.mark.parametrize("name", ["simclr_ms", "study"])
def test_what_other_devices_compile_is_one_graph_with_the_same_numbers(monkeypatch, name):
    """Traced and run as it is; tests/gpu has the compiled code. A second epoch is no reason to compile again."""
    monkeypatch.setattr(module, "_sparse", lambda device: False)
    bands = S2_L2A if name == "simclr_ms" else S2_RGB
    groups, v, rows = patches(4), views(recipe(name), bands), torch.arange(4)
    expected = [v(groups, rows, epoch) for epoch in (0, 1)]
    graphs: list[torch.fx.GraphModule] = []
    v.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    for epoch in (0, 1):
        torch.testing.assert_close(v(groups, rows, epoch), expected[epoch], rtol=0, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("name", MULTISPECTRAL)
def test_a_view_does_not_depend_on_the_batch(name):
    groups, v = patches(24), views(recipe(name))
    whole = v(groups, torch.arange(100, 124), epoch=2)
    some = torch.tensor([20, 3, 7])
    part = v(tuple(g[some] for g in groups), some + 100, epoch=2)
    torch.testing.assert_close(part, whole[:, some], rtol=0, atol=1e-6)


def test_the_same_patch_in_different_rows_views_epochs_and_seeds_looks_different():
    one = tuple(g[:1].expand(16, -1, -1, -1).contiguous() for g in patches(1))
    spec, rows = recipe("simclr_ms"), torch.arange(16)
    x = views(spec)(one, rows, epoch=0).flatten(0, 1)
    distance = torch.cdist(x.flatten(1), x.flatten(1)) + 1e9 * torch.eye(32)
    assert distance.min() > 1.0  # no two samples or views share their parameters
    again = views(spec)(one, rows, epoch=0).flatten(0, 1)
    assert torch.equal(again, x)
    for other in (views(spec)(one, rows, epoch=1), views(spec, seed=1)(one, rows, epoch=0)):
        assert ((other.flatten(0, 1) - x).flatten(1).norm(dim=1) > 1.0).all()


@pytest.mark.parametrize("name", ["eo_light", "none"])
def test_permuting_the_bands_permutes_the_channels(name):
    groups, order = patches(5), list(reversed(range(12)))
    mean = [0.1 + 0.01 * k for k in range(12)]
    straight = views(recipe(name), mean_C=mean)(groups, torch.arange(5), 0)
    turned = views(recipe(name), tuple(S2_L2A[k] for k in order), mean_C=[mean[k] for k in order])
    torch.testing.assert_close(turned(groups, torch.arange(5), 0), straight[:, :, order], rtol=0, atol=1e-6)


def test_fewer_bands_equal_the_same_bands_of_all():
    groups, wanted = patches(5), ("B8A", "B02", "B04")
    at = [S2_L2A.index(name) for name in wanted]
    all_bands = views(recipe("eo_light"))(groups, torch.arange(5), 0)
    torch.testing.assert_close(
        views(recipe("eo_light"), wanted)(groups, torch.arange(5), 0), all_bands[:, :, at], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", ["simclr_ms", "simclr_rgb", "study"])
def test_no_view_is_constant(name):
    bands = S2_L2A if name == "simclr_ms" else S2_RGB
    x = views(recipe(name), bands)(patches(64), torch.arange(64), 0)
    assert torch.isfinite(x).all()
    assert (x.std((-1, -2)).amax(-1) < 1e-2).float().mean() == 0.0


def test_values_above_32767_are_read_unsigned():
    groups = tuple(torch.full((2, len(b), h, w), 40000, dtype=torch.uint16).view(torch.int16) for b, h, w in LAYOUT)
    x = views(recipe("none"), offset=1000.0).center(groups)
    torch.testing.assert_close(x, torch.full_like(x, (3.9 - 0.2) / 0.1), rtol=1e-5, atol=0)


def test_bytes_and_floats():
    layout = [(("red", "green", "blue"), 64, 64)]
    values = {
        "bands": ("red", "green", "blue"),
        "offset": 0.0,
        "mean_C": [0.5] * 3,
        "std_C": [0.25] * 3,
        "image_size": 64,
    }
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = (pixels / 255 - 0.5) / 0.25
    as_bytes = Views(recipe("none"), layout, scale=255.0, **values).center((pixels,))
    as_floats = Views(recipe("none"), layout, scale=1.0, **values).center((pixels / 255,))
    torch.testing.assert_close(as_bytes, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(as_floats, expected, rtol=0, atol=1e-5)
    x = Views(recipe("study"), layout, scale=255.0, **values)((pixels,), torch.arange(2), 0)
    assert x.abs().max() < 4.0


def test_the_right_angle_of_the_study_is_shared_by_both_views():
    spec = AugmentSpec(name="turn", rot90="shared")
    x = views(spec)(patches(20), torch.arange(20), 0)
    assert torch.equal(x[0], x[1])
    y = views(AugmentSpec(name="turn", rot90="each"))(patches(20), torch.arange(20), 0)
    same = (y[0] == y[1]).flatten(1).all(1).float().mean()
    assert 0.0 < same < 0.6


def test_autocast_changes_nothing():
    groups, v = patches(4), views(recipe("simclr_ms"))
    expected = v(groups, torch.arange(4), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(v(groups, torch.arange(4), 0), expected)


def test_nothing_is_drawn_from_the_global_generator_and_inputs_stay():
    groups = patches(4)
    before, copies = torch.get_rng_state(), [g.clone() for g in groups]
    views(recipe("simclr_ms"))(groups, torch.arange(4), 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(groups, copies, strict=True))


@pytest.mark.parametrize("name", ["simclr_rgb", "study"])
@pytest.mark.parametrize("bands", [S2_L2A, ("B02", "B03", "B04")])
def test_rgb_recipes_refuse_other_bands(name, bands):
    with pytest.raises(ConfigError, match="RGB operations"):
        views(recipe(name), bands)


def test_missing_bands_and_empty_recipes_are_refused():
    with pytest.raises(ConfigError, match="B10"):
        views(recipe("none"), ("B10", "B04"))
    with pytest.raises(ConfigError, match="has no operation"):
        AUGMENTS.parse({"name": "simclr_ms"})
    with pytest.raises(ConfigError, match="did you mean 'band_drop'"):
        recipe("simclr_ms", band_dorp=0.1)


def test_every_recipe_has_its_file():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(AUGMENTS.names())
    assert all(recipe(name).name == name for name in AUGMENTS.names())
