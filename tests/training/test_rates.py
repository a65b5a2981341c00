"""Rates of head, encoder and layers in closed form; curves over one phase and over several."""

import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from ssl_sat.encoders import ENCODERS
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.optim.schedule import curve
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.spec import ConfigError
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.finetune_spec import Phase, PhasesSpec, ScheduleSpec
from ssl_sat.training.freezing import set_trainable
from ssl_sat.training.rates import continue_from, curve_of, legs, moments, optimizer_of, scales

OPTIM = OptimSpec(lr=1.0, scale="none", warmup_epochs=0)


def classifier(name: str, **values) -> Classifier:
    encoder = ENCODERS.build(ENCODERS.parse({"name": name, **values}), bands=("B04",), image_size=32, seed=0)
    return Classifier(encoder, ClassifierHead(encoder.embed_dim, 4, kind="linear", dropout=0))


def phase(**values) -> Phase:
    return Phase.model_validate({"epochs": 1, "train": "all", "lr": 2e-3, **values})


def test_decay_of_a_vit_is_the_papers():
    """BEiT (Bao et al. 2022): lr * decay ** (depth + 1 - layer), layer 0 the embedding, depth + 1 the head."""
    model = classifier("vit_tiny")
    set_trainable(model, phase())
    found = scales(model, phase(layer_decay=0.75))
    assert found["head.layers.0.weight"] == 1
    assert found["encoder.trunk.cls_token"] == found["encoder.trunk.patch_embed.proj.weight"] == 0.75**13
    for layer in range(12):
        assert found[f"encoder.trunk.blocks.{layer}.attn.qkv.weight"] == pytest.approx(0.75 ** (12 - layer), rel=1e-12)
    assert found["encoder.trunk.norm.weight"] == 0.75


@pytest.mark.parametrize(
    "name, factor", [("vit_tiny_patch16_224", 1), ("resnet18", 1), ("efficientnet_b0", 1), ("convnext_atto", 0.6)]
)
def test_decay_is_timms(name, factor):
    """timm gives the classifier a layer of its own, but for ConvNeXt, where it has the last one's; our head always."""
    with torch.device("meta"):
        model = classifier("timm", model=name)
        theirs = timm.create_model(name, in_chans=1, num_classes=4)
    set_trainable(model, phase())
    ours = {name.removeprefix("encoder.trunk."): s for name, s in scales(model, phase(layer_decay=0.6)).items()}
    scale_of = {id(p): g["lr_scale"] for g in param_groups_layer_decay(theirs, layer_decay=0.6) for p in g["params"]}
    head = {id(p) for p in theirs.get_classifier().parameters()}
    assert {scale_of[key] for key in head} == {1.0}
    for key, parameter in theirs.named_parameters():
        if id(parameter) not in head:
            assert ours[key] == pytest.approx(factor * scale_of[id(parameter)], rel=1e-9), key


def test_head_and_encoder_rates_and_decay_by_stages():
    model = classifier("cnn")
    set_trainable(model, phase())
    found = scales(model, phase(encoder_lr=1e-4))
    assert {value for name, value in found.items() if name.startswith("encoder")} == {1e-4 / 2e-3}
    found = scales(model, phase(encoder_lr=1e-3, layer_decay=0.5))
    by_block = {name.split(".")[2]: value for name, value in found.items() if name.startswith("encoder.blocks")}
    assert by_block == {"0": 0.5 * 0.125, "1": 0.5 * 0.25, "2": 0.5 * 0.5}
    optimizer = optimizer_of(model, phase(encoder_lr=1e-3, layer_decay=0.5), OPTIM, 8)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(2e-3 * found[name], rel=1e-12)
    assert optimizer.param_groups[0]["lr"] == 2e-3  # the highest first: that is the one in the history


def test_scaling_with_the_batch_holds_for_every_group():
    model = classifier("cnn")
    set_trainable(model, phase())
    optim = OptimSpec(scale="linear", base_batch=256)
    optimizer = optimizer_of(model, phase(layer_decay=0.5), optim, 64)
    assert sorted({round(group["lr"] / 2e-3, 9) for group in optimizer.param_groups}) == [0.03125, 0.0625, 0.125, 0.25]


def plan(*steps: dict, **more) -> list:
    spec = PhasesSpec.model_validate({"name": "x", "steps": {f"p{k}": step for k, step in enumerate(steps)}, **more})
    return legs(dict(spec.steps))


def test_curves_start_anew_or_go_on():
    step = {"epochs": 3, "train": "all", "lr": 1.0}
    _, second = plan(step, step)
    assert (second.before, second.start, second.length) == (3, 0, 3)
    factor = curve_of(second, OPTIM, 10)
    assert factor(0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 30))) and factor(29) == 0
    together = plan(step, {**step, "epochs": 5, "schedule": "continue"}, step)
    assert [(leg.start, leg.length) for leg in together] == [(0, 8), (3, 8), (0, 3)]
    a, b = (curve_of(leg, OPTIM, 10) for leg in together[:2])
    whole = [curve("cosine", at, 80, 0) for at in range(80)]
    assert [a(at) for at in range(30)] + [b(at) for at in range(50)] == whole


def test_step_constant_and_plateau():
    leg = plan({"epochs": 8, "train": "all", "lr": 1.0, "schedule": {"name": "step", "warmup_epochs": 1}})[0]
    factor = curve_of(leg, OPTIM, 10)
    assert [factor(at) for at in (0, 9, 10, 39)] == [0.1, 1, 1, 1]
    assert [factor(at) for at in (40, 59, 60, 79)] == pytest.approx([0.1, 0.1, 0.01, 0.01])  # a half, three quarters
    own = plan({"epochs": 8, "train": "all", "lr": 1.0, "schedule": {"name": "step", "milestones": [2], "gamma": 0.5}})
    assert [curve_of(own[0], OPTIM, 10)(at) for at in (19, 20, 79)] == [1, 0.5, 0.5]
    assert curve("constant", 5, 10, 0) == curve("plateau", 5, 10, 0) == 1
    with pytest.raises(ValueError, match="no curve"):
        curve("cubic", 0, 1, 0)
    with pytest.raises(ConfigError, match=r"phases\.steps\.p0: a warm-up of 3 epochs leaves nothing of 2"):
        curve_of(plan({"epochs": 2, "train": "all", "lr": 1})[0], OptimSpec(warmup_epochs=3), 10)


def test_what_phases_share_and_their_own_words():
    shared = {"schedule": {"name": "step", "gamma": 0.2}, "stop": {"patience": 3}, "batch_norm": "eval"}
    steps = {"a": {"epochs": 1, "train": "last_k", "lr": 1, "schedule": {"gamma": 0.5}, "batch_norm": "follow"},
             "b": {"epochs": 1, "train": "last_k", "k": 3, "lr": 1}}  # fmt: skip
    spec = PhasesSpec.model_validate({"name": "x", "k": 2, "shared": shared, "steps": steps})
    assert spec.steps["a"].schedule == ScheduleSpec(name="step", gamma=0.5)
    assert [step.k for step in spec.steps.values()] == [2, 3]
    assert [step.batch_norm for step in spec.steps.values()] == ["follow", "eval"]
    assert all(step.stop.patience == 3 for step in spec.steps.values())
    with pytest.raises(ConfigError, match="first phase and has nothing to continue"):
        PhasesSpec.parse({"name": "x", "steps": {"a": {**steps["b"], "optimizer": "continue"}}})


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_a_continued_optimiser_has_the_moments_it_had(name):
    optim = OptimSpec(name=name, scale="none")
    model = classifier("cnn").to(memory_format=torch.channels_last)
    set_trainable(model, phase(train="last_stage"))
    first = optimizer_of(model, phase(), optim, 8)
    for seed in range(2):
        x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
        model(x).square().sum().backward()
        first.step()
    kept = moments(first, model)
    set_trainable(model, phase())
    second = optimizer_of(model, phase(), optim, 8)
    count = continue_from(second, model, kept)
    held = [p for group in first.param_groups for p in group["params"]]
    assert count == len(held) < len(list(model.parameters()))
    for p in held:
        assert second.state[p].keys() == first.state[p].keys()
        for moment, value in first.state[p].items():
            assert torch.equal(second.state[p][moment], value)
            assert second.state[p][moment].stride() == value.stride()
    second.step()  # its new parameters have no gradient yet; the others go on
