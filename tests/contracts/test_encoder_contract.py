"""Every registered encoder: generated from the registry, so that a new one is tested by being registered."""

import functools

import pytest
import torch

from ssl_sat.bands import S2_L2A, S2_RGB
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.contract import Encoder, check_stages
from ssl_sat.encoders.stem import map_bands, stem_keys

NAMES = ENCODERS.names()


def make(name: str, bands: tuple[str, ...], image_size: int, seed: int = 0) -> Encoder:
    return ENCODERS.build(ENCODERS.parse({"name": name}), bands=bands, image_size=image_size, seed=seed)


@functools.cache
def shared(name: str) -> Encoder:
    """One encoder for the tests that change neither weights nor buffers."""
    return make(name, S2_L2A, 32).eval()


def images(bands: tuple[str, ...], size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, len(bands), size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bands, size", [(S2_RGB, 64), (S2_L2A, 32)], ids=["3x64", "12x32"])
@pytest.mark.parametrize("name", NAMES)
def test_shape_gradients_and_finite_values(name, bands, size):
    encoder = make(name, bands, size).train()
    assert encoder.bands == bands and encoder.image_size == size
    h_ND = encoder(images(bands, size))
    assert h_ND.shape == (3, encoder.embed_dim)
    assert torch.isfinite(h_ND).all()
    h_ND.square().sum().backward()
    without = [key for key, p in encoder.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_stages_hold_every_parameter_once(name):
    encoder = shared(name)
    check_stages(encoder)
    assert len(encoder.stages) >= 3
    assert id(dict(encoder.named_parameters())[stem_keys(encoder)[0]]) in {
        id(p) for p in encoder.stages[0][1].parameters()
    }


@pytest.mark.parametrize("name", NAMES)
def test_freezing_a_stage_freezes_the_encoder(name):
    encoder = make(name, S2_RGB, 32)
    stage = encoder.stages[-1][1].eval().requires_grad_(False)
    held = {id(p) for p in stage.parameters()}
    assert {id(p) for p in encoder.parameters() if not p.requires_grad} == held
    assert any(not module.training for module in encoder.modules())


@pytest.mark.parametrize("name", NAMES)
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make(name, S2_RGB, 32, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)  # building draws nothing from the global generator
    torch.manual_seed(2)
    second, other = make(name, S2_RGB, 32, seed=5).state_dict(), make(name, S2_RGB, 32, seed=6).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip(name):
    x = images(S2_L2A, 32)
    source, target = shared(name), make(name, S2_L2A, 32, seed=9).eval()
    with torch.no_grad():
        assert not torch.equal(target(x), source(x))
        target.load_state_dict(source.state_dict())
        assert torch.equal(target(x), source(x))


@pytest.mark.parametrize("name", NAMES)
def test_bands_mapped_by_name_leave_the_function_of_shared_bands_unchanged(name):
    source, target = shared(name), make(name, S2_RGB, 32).eval()
    target.load_state_dict(map_bands(source.state_dict(), stem_keys(source), S2_L2A, S2_RGB, "by_name"))
    x_rgb = images(S2_RGB, 32)
    x_all = torch.zeros(3, 12, 32, 32)
    x_all[:, [S2_L2A.index(band) for band in S2_RGB]] = x_rgb
    with torch.no_grad():
        torch.testing.assert_close(target(x_rgb), source(x_all), rtol=1e-4, atol=1e-5)
