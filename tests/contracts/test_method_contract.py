"""Every registered method, on a small encoder, against ssl_sat.methods.contract."""

import copy
import functools

import pytest
import torch
import yaml

from ssl_sat.bands import S2_L2A
from ssl_sat.config import conf_dir
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods import METHODS
from ssl_sat.training.gradient_cache import embed_in_chunks

PATCHES = 6
RUNNING = ("running_mean", "running_var", "num_batches_tracked")
ENCODER = {"mae": {"name": "timm", "model": "test_vit", "patch_size": 4}}
SMALL = {
    "byol": {"head_hidden": 512}, "simsiam": {"head_hidden": 512, "head_out": 512},
    "moco": {"queue": 64, "momentum": 0.9, "head_hidden": 256},
    "barlow": {"head_hidden": 256, "head_out": 64}, "vicreg": {"head_hidden": 256, "head_out": 64},
    "mae": {"decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3},
}  # fmt: skip
STEPS = {"moco": 100}  # at first its queries are all alike


def make(name: str, seed: int = 0):
    parsed = ENCODERS.parse(ENCODER.get(name, {"name": "cnn", "dropout": 0.0}))
    encoder = ENCODERS.build(parsed, bands=S2_L2A, image_size=16, seed=1)
    return METHODS.build(METHODS.parse({"name": name, **SMALL.get(name, {})}), encoder=encoder, seed=seed)


def views(method, seed: int = 0, patches: int = PATCHES) -> torch.Tensor:
    """Views of a patch resemble one another, patches do not: each has its own spectrum and texture."""
    generator = torch.Generator().manual_seed(seed)
    patch = torch.randn(1, patches, 12, 1, 1, generator=generator)
    patch = patch + 0.3 * torch.randn(1, patches, 12, 16, 16, generator=generator)
    return patch + 0.3 * torch.randn(method.num_views, patches, 12, 16, 16, generator=generator)


@functools.cache
def trained(name: str):
    """The method before and after training on other patches than it is looked at with; queues are full of real keys."""
    torch.manual_seed(0)
    method = make(name).train()
    with torch.no_grad():
        for seed in range(5):
            method.loss(views(method, 1000 + seed, 16))
    before = copy.deepcopy(method)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    steps = STEPS.get(name, 24)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        method.loss(views(method, step, 16))[0].backward()
        optimizer.step()
        method.after_step(step, steps)
    return before, method


def looked_at(method, x: torch.Tensor):
    """Loss and logs of a method that stays as it is."""
    with torch.no_grad():
        return copy.deepcopy(method).train().loss(x)


@pytest.mark.parametrize("name", METHODS.names())
def test_loss_is_the_objective_of_the_embeddings_and_logs_are_scalars(name):
    method = make(name).eval()
    x = views(method)
    loss, logs = method.loss(x)
    again, _ = method.objective(method.embed(x))
    assert loss.shape == () and torch.isfinite(loss) and torch.equal(loss, again)
    for key, value in logs.items():
        assert value.shape == () and torch.isfinite(value) and not value.requires_grad, key


@pytest.mark.parametrize("name", METHODS.names())
def test_every_trainable_parameter_gets_a_gradient_and_no_other(name):
    method = make(name).train()
    loss, _ = method.loss(views(method))
    loss.backward()
    for key, p in method.named_parameters():
        assert (p.grad is not None) == p.requires_grad, key
        assert p.grad is None or torch.isfinite(p.grad).all(), key
    assert all(p.grad.abs().max() > 0 for p in method.encoder.parameters() if p.ndim > 1)


@pytest.mark.parametrize("name", METHODS.names())
def test_parts_of_a_batch_have_the_gradient_of_the_whole(name):
    """What gradient caching needs of a method; batch norm by its running statistics, which are no patch's business."""
    gradients = []
    for cached in (False, True):
        method = make(name).eval()
        x = views(method)
        z = (
            embed_in_chunks(method.embed, lambda part, x=x: x[:, part], PATCHES, 4, method)
            if cached
            else method.embed(x)
        )
        method.objective(z)[0].backward()
        gradients.append([p.grad for p in method.parameters() if p.grad is not None])
    scale = max(whole.abs().max().item() for whole in gradients[0])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("name", METHODS.names())
def test_patches_are_on_the_second_axis_and_embedded_one_by_one(name):
    method = make(name).eval()  # batch norm by its running statistics
    x = views(method)
    with torch.no_grad():
        whole = method.embed(x)
        parts = torch.cat([method.embed(x[:, :2]), method.embed(x[:, 2:])], 1)
    assert whole.shape[1] == PATCHES
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss, permuted = method.objective(whole)[0], method.objective(whole[:, order])[0]
    torch.testing.assert_close(permuted, loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS.names())
def test_embedding_changes_running_statistics_alone(name):
    method = make(name).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.embed(views(method))
    changed = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.rpartition(".")[2] for key in changed} <= set(RUNNING)


@pytest.mark.parametrize("name", METHODS.names())
def test_no_collapse_at_the_start_nor_after_training(name):
    for method in trained(name):
        loss, logs = looked_at(method, views(method, patches=16))
        if "embedding_std" in logs:
            assert logs["embedding_std"] > 0.1
        if "loss_collapse" in logs:
            assert logs["loss_floor"] <= loss < logs["loss_collapse"]


@pytest.mark.parametrize("name", METHODS.names())
def test_the_objective_falls_and_tells_pairs_from_strangers(name):
    before, method = trained(name)
    x = views(method, patches=16)
    first, last = (looked_at(current, x)[0].item() for current in (before, method))
    assert last < first
    if method.num_views > 1:  # a trivial answer, the same whatever the pairs, would give both the same value
        torn = torch.stack([x[0], *(view.roll(1, 0) for view in x[1:])])
        assert last < looked_at(method, torn)[0].item() - 0.05 * abs(first)


@pytest.mark.parametrize("name", METHODS.names())
def test_its_state_is_all_there_is(name):
    _, method = trained(name)
    fresh = make(name, seed=5)
    fresh.load_state_dict(method.state_dict())
    x = views(method)
    first, second = looked_at(method, x), looked_at(fresh, x)
    assert torch.equal(first[0], second[0])
    for key in first[1]:
        assert torch.equal(first[1][key], second[1][key]), key


@pytest.mark.parametrize("name", METHODS.names())
def test_first_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = make(name, 3), make(name, 3), make(name, 4)
    assert torch.equal(torch.get_rng_state(), before)
    state, same, different = first.state_dict(), second.state_dict(), other.state_dict()
    assert all(torch.equal(state[key], same[key]) for key in state)
    assert any(not torch.equal(state[key], different[key]) for key in state)


@pytest.mark.parametrize("name", METHODS.names())
def test_the_objective_is_float32_under_autocast(name):
    method = make(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logs = method.loss(views(method))
    loss.backward()
    assert loss.dtype == torch.float32 and all(torch.isfinite(value) for value in logs.values())
    assert all(p.grad.dtype == torch.float32 for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS.names())
def test_it_has_a_yaml_that_states_every_key(name):
    values = yaml.safe_load((conf_dir() / "method" / f"{name}.yaml").read_text())
    assert METHODS.parse(values).model_dump() == values
