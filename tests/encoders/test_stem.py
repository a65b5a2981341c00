"""First-layer filters moved between bands."""

import pytest
import torch

from ssl_sat.bands import AERIAL_RGB, S2_L1C, S2_L2A, S2_RGB, wavelengths_nm
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.stem import adapt_stem, map_bands, stem_keys


def filters(bands: tuple[str, ...]) -> torch.Tensor:
    return torch.randn(8, len(bands), 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("how", ["by_name", "by_wavelength"])
def test_same_bands_change_nothing_and_order_follows_names(how):
    weight = filters(S2_L2A)
    assert torch.equal(adapt_stem(weight, S2_L2A, S2_L2A, how), weight)
    reordered = S2_L2A[::-1]
    assert torch.equal(adapt_stem(weight, S2_L2A, reordered, how), weight.flip(1))


def test_by_name_copies_also_by_common_name_and_leaves_unseen_bands_at_zero():
    weight = filters(S2_RGB)
    assert torch.equal(adapt_stem(weight, S2_RGB, AERIAL_RGB, "by_name"), weight)
    wide = adapt_stem(weight, S2_RGB, S2_L1C, "by_name")
    for at, name in enumerate(S2_L1C):
        expected = weight[:, S2_RGB.index(name)] if name in S2_RGB else torch.zeros(8, 3, 3, dtype=torch.float64)
        assert torch.equal(wide[:, at], expected)


def test_by_wavelength_interpolates_and_holds_the_ends():
    weight = filters(S2_RGB)
    wide = adapt_stem(weight, S2_RGB, S2_L2A, "by_wavelength") * 12 / 3  # undo the rescaling
    red, green, blue = weight.unbind(1)
    torch.testing.assert_close(wide[:, S2_L2A.index("B04")], red)
    torch.testing.assert_close(wide[:, S2_L2A.index("B12")], red)  # beyond the longest wavelength
    torch.testing.assert_close(wide[:, S2_L2A.index("B01")], blue)
    narrow = adapt_stem(weight[:, [0, 2]], ("B04", "B02"), ("B03",), "by_wavelength") / 2
    b02, b03, b04 = wavelengths_nm(("B02", "B03", "B04"))
    share = (b03 - b02) / (b04 - b02)
    torch.testing.assert_close(narrow[:, 0], (1 - share) * blue + share * red)
    assert not torch.allclose(narrow[:, 0], green)


@pytest.mark.parametrize("bands_to", [S2_RGB, S2_L2A])
def test_mean_keeps_the_response_to_grey_exactly(bands_to):
    weight = filters(S2_L1C)
    torch.testing.assert_close(adapt_stem(weight, S2_L1C, bands_to, "mean").sum(1), weight.sum(1))


def test_random_keeps_the_variance_of_the_response_and_is_seeded():
    weight = torch.randn(256, 3, 7, 7, generator=torch.Generator().manual_seed(0)) * 0.02
    wide = adapt_stem(weight, S2_RGB, S2_L2A, "random", seed=1)
    assert (wide.square().sum((1, 2, 3)).mean() / weight.square().sum((1, 2, 3)).mean()).item() == pytest.approx(
        1, rel=0.05
    )
    assert torch.equal(wide, adapt_stem(weight, S2_RGB, S2_L2A, "random", seed=1))
    assert not torch.equal(wide, adapt_stem(weight, S2_RGB, S2_L2A, "random", seed=2))


def test_map_bands_changes_only_the_named_filters_and_not_its_input():
    state = {"a.weight": filters(S2_RGB), "b.weight": torch.ones(2)}
    mapped = map_bands(state, ["a.weight"], S2_RGB, S2_L2A, "by_name")
    assert mapped["a.weight"].shape == (8, 12, 3, 3) and state["a.weight"].shape == (8, 3, 3, 3)
    assert mapped["b.weight"] is state["b.weight"]


def test_wrong_counts_and_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="channels"):
        adapt_stem(filters(S2_RGB), S2_L2A, S2_RGB, "by_name")
    with pytest.raises(ValueError, match="by_wavelength"):
        adapt_stem(filters(S2_RGB), S2_RGB, S2_L2A, "tile")  # type: ignore[arg-type]


# The first filters of each kind of encoder: a convolution, a ViT's patch embedding, the CNN (which has a bias).
@torch.no_grad()
@pytest.mark.parametrize("bands_from, bands_to", [(S2_L2A, S2_RGB), (S2_RGB, S2_L2A), (AERIAL_RGB, S2_L2A)])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny", "cnn"])
def test_a_grey_image_gives_the_features_it_gave_before(name, bands_from, bands_to):
    """mean for any filters; by_wavelength where the filters of all bands are alike; by_name of shared bands alone."""
    spec = ENCODERS.parse({"name": name})
    source = ENCODERS.build(spec, bands=bands_from, image_size=32, seed=0).eval()
    target = ENCODERS.build(spec, bands=bands_to, image_size=32, seed=1).eval()
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    before, keys = source(grey.expand(-1, len(bands_from), -1, -1)), stem_keys(source)
    target.load_state_dict(map_bands(source.state_dict(), keys, bands_from, bands_to, "mean"))
    torch.testing.assert_close(target(grey.expand(-1, len(bands_to), -1, -1)), before, rtol=1e-4, atol=1e-5)
    state = source.state_dict()
    state[keys[0]] = state[keys[0]].mean(1, keepdim=True).expand_as(state[keys[0]])
    target.load_state_dict(map_bands(state, keys, bands_from, bands_to, "by_wavelength"))
    torch.testing.assert_close(target(grey.expand(-1, len(bands_to), -1, -1)), before, rtol=1e-4, atol=1e-5)


def test_there_and_back_by_name_is_the_identity_on_shared_bands():
    weight = filters(S2_RGB)
    assert torch.equal(adapt_stem(adapt_stem(weight, S2_RGB, S2_L2A, "by_name"), S2_L2A, S2_RGB, "by_name"), weight)
    wide = adapt_stem(weight, S2_RGB, S2_L2A, "by_wavelength")
    torch.testing.assert_close(adapt_stem(wide, S2_L2A, S2_RGB, "by_wavelength"), weight)
