"""Every registered encoder: generated from the registry, so that a new one is tested by being registered.

Each runs forward and backward once. What follows from the family and not from its size (seeds, round trips, bands) is
tested by families, by the smallest member where timm has one.
"""

import functools

import pytest
import torch

from ssl_sat.bands import S2_L2A, S2_RGB
from ssl_sat.config import conf_dir
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.contract import Encoder, check_stages
from ssl_sat.encoders.layers import depths
from ssl_sat.encoders.sizes import check_image_size, own_image_size
from ssl_sat.encoders.stem import map_bands, stem_keys
from ssl_sat.spec import ConfigError

SMALL = {"inception_v3": 75}  # the smallest size that passes, where 32 px do not
STAND_INS = {  # of the same family, and smaller
    "timm": "resnet10t",
    "resnet50": None,  # as resnet18
    "resnet101": None,
    "resnext50": None,
    "efficientnet_b3": None,  # as efficientnet_b0
    "efficientnet_v2_s": None,
    "convnext": "convnext_atto",
    "vit": None,  # as vit_tiny
    "swin": "swin_tiny_patch4_window7_224",
}
NAMES = ENCODERS.names()
FAMILIES = [name for name in NAMES if STAND_INS.get(name, name) is not None]
QUICK = [name for name in FAMILIES if name not in ("vgg16", "inception_v3", "swin")]  # built quickly, time and again


def make(name: str, bands: tuple[str, ...], image_size: int, seed: int = 0) -> Encoder:
    values = {"name": "timm", "model": STAND_INS[name]} if name in STAND_INS else {"name": name}
    return ENCODERS.build(ENCODERS.parse(values), bands=bands, image_size=image_size, seed=seed)


def on_meta(name: str, image_size: int) -> Encoder:
    """The registered network itself, shapes without numbers."""
    with torch.device("meta"):
        spec = ENCODERS.parse({"name": name})
        return ENCODERS.build(spec, bands=S2_RGB, image_size=image_size, seed=0).eval()


@functools.cache
def shared(name: str) -> Encoder:
    """One encoder for the tests that change neither weights nor buffers."""
    return make(name, S2_L2A, SMALL.get(name, 32)).eval()


def images(bands: tuple[str, ...], size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, len(bands), size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_shape_gradients_and_finite_values(name):
    size = SMALL.get(name, 32)
    encoder = ENCODERS.build(ENCODERS.parse({"name": name}), bands=S2_L2A[:5], image_size=size, seed=0).train()
    assert encoder.bands == S2_L2A[:5] and encoder.image_size == size
    h_ND = encoder(images(S2_L2A[:5], size, count=2))
    assert h_ND.shape == (2, encoder.embed_dim)
    assert torch.isfinite(h_ND).all()
    h_ND.square().sum().backward()
    without = [key for key, p in encoder.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


@pytest.mark.parametrize("name", FAMILIES)
def test_other_sizes_pass(name):
    size = SMALL.get(name, 32) + 32
    with torch.no_grad():
        assert make(name, S2_RGB, size).eval()(images(S2_RGB, size, count=1)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_stages_hold_every_parameter_once_and_give_features_by_name(name):
    encoder = on_meta(name, 96)
    check_stages(encoder)
    assert len(encoder.stages) >= 3
    first = {id(p) for p in encoder.stages[0][1].parameters()}
    assert id(dict(encoder.named_parameters())[stem_keys(encoder)[0]]) in first
    found = encoder.forward_stages(torch.empty(2, 3, 96, 96, device="meta"))
    assert list(found) == [stage for stage, _ in encoder.stages]
    assert all(value.shape[0] == 2 and value.ndim in (2, 3, 4) for value in found.values())
    sides = [value.shape[2] for value in found.values() if value.ndim == 4 and value.shape[2] == value.shape[3]]
    assert sides == sorted(sides, reverse=True)  # maps become no larger on the way
    assert not any(module._forward_hooks for module in encoder.modules())


@pytest.mark.parametrize("name", NAMES)
def test_depths_cover_every_parameter_and_start_at_the_stem(name):
    encoder = on_meta(name, 96)
    depth_of, count = depths(encoder)
    assert depth_of.keys() == dict(encoder.named_parameters()).keys()
    assert set(depth_of.values()) == set(range(count)) and count >= 3
    assert depth_of[stem_keys(encoder)[0]] == 0


@pytest.mark.parametrize("name", NAMES)
def test_its_own_size_passes_and_its_yaml_is_there(name):
    spec = ENCODERS.parse({"name": name})
    check_image_size(spec, own_image_size(spec))
    assert f"name: {name}\n" in (conf_dir() / "encoder" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name, smallest", [("inception_v3", 75), ("vgg16", 32), ("vit", 16), ("convnext", 32)])
def test_an_image_too_small_is_one_clear_error(name, smallest):
    spec = ENCODERS.parse({"name": name})
    with pytest.raises(ConfigError, match=rf"image_size=8 is too small for .*, which needs {smallest} pixels"):
        check_image_size(spec, 8)
    check_image_size(spec, smallest)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_of_stages_lie_on_the_way_to_the_output(name):
    """In eval mode the output follows from the last stage's features, pooled, for networks that end by pooling."""
    encoder, size = shared(name), SMALL.get(name, 32)
    x = images(S2_L2A, size)
    with torch.no_grad():
        found, h_ND = encoder.forward_stages(x), encoder(x)
    last = list(found.values())[-1]
    means = {2: lambda: last, 3: lambda: last[:, 0], 4: lambda: last.mean((2, 3))}
    pooled = last.mean((1, 2)) if name == "swin" else means[last.ndim]()
    torch.testing.assert_close(pooled, h_ND, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", QUICK)
def test_freezing_a_stage_freezes_the_encoder(name):
    encoder = make(name, S2_RGB, SMALL.get(name, 32))
    stage = encoder.stages[-1][1].eval().requires_grad_(False)
    held = {id(p) for p in stage.parameters()}
    assert {id(p) for p in encoder.parameters() if not p.requires_grad} == held
    assert any(not module.training for module in encoder.modules())


@pytest.mark.parametrize("name", QUICK)
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    size = SMALL.get(name, 32)
    first = make(name, S2_RGB, size, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)  # building draws nothing from the global generator
    torch.manual_seed(2)
    second, other = make(name, S2_RGB, size, seed=5).state_dict(), make(name, S2_RGB, size, seed=6).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", QUICK)
def test_state_round_trip(name):
    size = SMALL.get(name, 32)
    x = images(S2_L2A, size)
    source, target = shared(name), make(name, S2_L2A, size, seed=9).eval()
    with torch.no_grad():
        assert not torch.equal(target(x), source(x))
        target.load_state_dict(source.state_dict())
        assert torch.equal(target(x), source(x))


@pytest.mark.parametrize("name", QUICK)
def test_bands_mapped_by_name_leave_the_function_of_shared_bands_unchanged(name):
    size = SMALL.get(name, 32)
    source, target = shared(name), make(name, S2_RGB, size).eval()
    target.load_state_dict(map_bands(source.state_dict(), stem_keys(source), S2_L2A, S2_RGB, "by_name"))
    x_rgb = images(S2_RGB, size)
    x_all = torch.zeros(3, 12, size, size)
    x_all[:, [S2_L2A.index(band) for band in S2_RGB]] = x_rgb
    with torch.no_grad():
        torch.testing.assert_close(target(x_rgb), source(x_all), rtol=1e-4, atol=1e-5)
