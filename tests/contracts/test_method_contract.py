"""Every registered method, on a small encoder, against ssl_sat.methods.contract."""

import pytest
import torch
import yaml

from ssl_sat.bands import S2_L2A
from ssl_sat.config import conf_dir
from ssl_sat.encoders import ENCODERS
from ssl_sat.methods import METHODS

PATCHES = 6
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def make(name: str, seed: int = 0):
    encoder = ENCODERS.build(ENCODERS.parse({"name": "cnn", "dropout": 0.0}), bands=S2_L2A, image_size=16, seed=1)
    return METHODS.build(METHODS.parse({"name": name}), encoder=encoder, seed=seed)


def views(method) -> torch.Tensor:
    """Views of a patch resemble one another, patches do not."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(1, PATCHES, 12, 16, 16, generator=generator)
    return patches + 0.3 * torch.randn(method.num_views, PATCHES, 12, 16, 16, generator=generator)


def trained(name: str, steps: int = 15):
    method = make(name).train()
    x = views(method)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss, _ = method.loss(x)
        loss.backward()
        optimizer.step()
        method.after_step(step + 1, steps)
        losses.append(loss.item())
    return method, x, losses


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
    method, x, _ = trained(name)
    for current in (make(name).train(), method):
        loss, logs = current.loss(x)
        if "embedding_std" in logs:
            assert logs["embedding_std"] > 0.1
        if "loss_collapse" in logs:
            assert logs["loss_floor"] <= loss < logs["loss_collapse"]


@pytest.mark.parametrize("name", METHODS.names())
def test_the_objective_falls_and_tells_pairs_from_strangers(name):
    method, x, losses = trained(name)
    assert losses[-1] < losses[0]
    if method.num_views > 1:  # a trivial answer, the same whatever the pairs, would give both the same value
        method.eval()
        torn = torch.stack([x[0], *(view.roll(1, 0) for view in x[1:])])
        assert method.loss(x)[0] < method.loss(torn)[0] - 0.05 * abs(losses[0])


@pytest.mark.parametrize("name", METHODS.names())
def test_its_state_is_all_there_is(name):
    method, x, _ = trained(name, steps=3)
    fresh = make(name, seed=5)
    fresh.load_state_dict(method.state_dict())
    for current in (method, fresh):
        current.train()
    first, second = method.loss(x), fresh.loss(x)
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
