"""Dropout passes from the first active dropout on: exact for every placement, nothing in front of it is run twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssl_sat.encoders.cnn import CNN
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.ood.contract import McResult
from ssl_sat.ood.keyed_dropout import KeyedDropout, frozen_eval
from ssl_sat.ood.mc_dropout import McAccumulator, Sampler, mc_dropout
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.training.classifier import Classifier

torch.set_num_threads(1)
X = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
ROWS = torch.tensor([5, 2, 9, 0, 7, 3, 11])


def naive(model: nn.Module, passes: int = 4, seed: int = 3) -> McResult:
    """The whole network for every pass, with the same keyed masks."""
    mode, accumulator = KeyedDropout(seed), McAccumulator()
    with torch.no_grad(), frozen_eval(model):
        for number in range(passes):
            mode.at(torch.full_like(ROWS, number), ROWS)
            with mode:
                accumulator.add(model(X.clone())[None])
    return accumulator.result(ROWS, seed)


class Block(nn.Module):
    """A residual block whose branch drops: what crosses the border is the input of the dropout and the shortcut."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace), nn.Dropout(0.3, inplace))
        self.after = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.after(self.branch(x))
        x += y  # writes into the shortcut, which every pass reads
        return F.relu_(x)


class Views(nn.Module):
    """Two views of one tensor cross the border, and one is written through behind it; functions of several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        whole = x.flatten(2).mean(2).repeat(1, 4)[:, :8]
        largest, at = whole.max(dim=1)
        first, second = whole.chunk(2, dim=1)
        first += F.dropout(second, 0.4, training=self.training)
        return self.mix(whole) + largest[:, None] + at[:, None]


class Unseen(nn.Module):
    """A step in front of the dropout that torch's dispatch of functions does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 4)
        self.hidden = torch.jit.trace(lambda x: torch.nan_to_num(x) * 2 + 1, (torch.ones(1, 3),))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.sigmoid(F.dropout(self.hidden(x.mean((2, 3)) * 3), 0.5, self.training)))


def stacked(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), *layers)


def closing() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]


def classifier(drop: float, head: dict[str, Any]) -> Classifier:
    return Classifier(CNN(("a", "b", "c"), 16, drop), ClassifierHead(256, 5, **head))


def vit(**rates: float) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, depth=2, num_classes=5, **rates)


PLACES = {
    "first of all": (lambda: nn.Sequential(nn.Dropout(0.2), *stacked(*closing())), "replay"),
    "channels after a block": (lambda: classifier(0.2, {"dropout": 0.1}), "replay"),
    "channels after a block, linear head": (lambda: classifier(0.2, {"kind": "linear", "dropout": 0.0}), "replay"),
    "in the mlp head": (lambda: classifier(0.0, {"dropout": 0.3}), "head"),
    "in front of the linear head": (lambda: classifier(0.0, {"kind": "linear", "dropout": 0.3}), "folded"),
    "at the end of timm's trunk": (lambda: timm.create_model("resnet10t", drop_rate=0.3, num_classes=5), "folded"),
    "timm's patch tokens": (lambda: vit(pos_drop_rate=0.2), "replay"),
    "timm's attention": (lambda: vit(attn_drop_rate=0.2), "replay"),
    "timm's mlp and projection": (lambda: vit(proj_drop_rate=0.2), "replay"),
    "a residual branch": (lambda: stacked(Block(False), *closing()), "replay"),
    "a residual branch, in place": (lambda: stacked(Block(True), *closing()), "replay"),
    "in place": (lambda: stacked(nn.Dropout2d(0.3, inplace=True), nn.ReLU(inplace=True), *closing()), "replay"),
    "before an in-place activation": (lambda: stacked(nn.Dropout(0.3), nn.GELU(), nn.ReLU(True), *closing()), "replay"),
    "alpha dropout": (lambda: stacked(nn.AlphaDropout(0.3), *closing()), "replay"),
    "views of one tensor": (lambda: Views(), "replay"),
    "twice before the last layer": (
        lambda: nn.Sequential(*stacked(*closing()[:2]), nn.Dropout(0.2), nn.Dropout(0.2), nn.Linear(4, 5)),
        "replay",
    ),
    "an activation before the last layer": (
        lambda: nn.Sequential(*stacked(*closing()[:2]), nn.Dropout(0.2), nn.Sigmoid(), nn.Linear(4, 5)),
        "replay",
    ),
    "out of sight": (lambda: Unseen(), "whole"),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_placement_gives_what_the_whole_network_gives(place: str) -> None:
    build, way = PLACES[place]
    torch.manual_seed(0)
    model = build()
    expected = naive(model)
    sampler = Sampler(model, McDropoutSpec(passes=4, seed=3))
    with torch.no_grad(), frozen_eval(model):
        plain = sampler(X.clone(), ROWS)
        logits_NK = model(X.clone())
    found = sampler.results()[0]
    assert sampler.way == way
    np.testing.assert_allclose(plain.logits_NK.numpy(), logits_NK.numpy(), atol=1e-5)
    for name in ("log_p_NK", "mutual_information_N", "expected_entropy_N", "pass_variance_N"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-6)
    for size in (1, 4):  # other batches, the last one smaller
        parts = mc_dropout(model, list(zip(X.split(size), ROWS.split(size), strict=True)), passes=4, seed=3)
        np.testing.assert_allclose(parts.mutual_information_N, expected.mutual_information_N, atol=2e-6)


class Calls(TorchFunctionMode):
    """Counts the functions that are really computed, for how many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Counter[Any] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.conv2d, torch.conv2d, F.linear):
            self.rows[len(args[0]), args[1].shape] += 1
        return func(*args, **(kwargs or {}))


def test_what_comes_before_the_dropout_is_computed_once() -> None:
    """The study's CNN: its first block once (and once for 7 rows of comparison), the other blocks once a pass."""
    model = classifier(0.2, {"dropout": 0.1})
    with Calls() as calls:
        mc_dropout(model, [(X, ROWS)], passes=10, seed=0)
    first, second = (7, torch.Size([64, 3, 3, 3])), (7, torch.Size([128, 64, 3, 3]))
    assert calls.rows[first] == 1 + 1  # the plain pass, the comparison
    assert calls.rows[second] == 1 + 1 + 10  # these, and the passes


def test_a_head_takes_many_passes_in_a_call_and_the_trunk_runs_once() -> None:
    model = classifier(0.0, {"dropout": 0.1})
    with Calls() as calls:
        mc_dropout(model, [(X, ROWS)], passes=10, seed=0)
    assert calls.rows[7, torch.Size([64, 3, 3, 3])] == 2
    assert calls.rows[7, torch.Size([512, 256])] == 3  # in front of the head's first dropout; once more to record it
    assert calls.rows[70, torch.Size([256, 512])] == 1


def test_a_linear_head_needs_no_network() -> None:
    model = classifier(0.0, {"kind": "linear", "dropout": 0.1})
    with Calls() as calls:
        mc_dropout(model, [(X, ROWS)], passes=10, seed=0)
    assert calls.rows[7, torch.Size([256, 128, 3, 3])] == 2
    assert calls.rows[70, torch.Size([5, 256])] == 1


def test_memory_holds_what_crosses_the_border_alone() -> None:
    """Behind the first block of the CNN one tensor is alive; its convolutions' outputs are not kept."""
    model = classifier(0.2, {"dropout": 0.1})
    sampler = Sampler(model, McDropoutSpec(passes=2))
    with torch.no_grad(), frozen_eval(model):
        sampler(X, ROWS)
    kept = sampler._replay._copies
    assert [tuple(tensor.shape) for tensor in kept] == [(7, 64, 8, 8)]


def test_repeats_are_other_masks_of_the_same_seed() -> None:
    model = classifier(0.0, {"dropout": 0.3})
    sampler = Sampler(model, McDropoutSpec(passes=3, seed=3, repeats=2))
    with torch.no_grad(), frozen_eval(model):
        sampler(X, ROWS)
    first, second = sampler.results()
    six = mc_dropout(model, [(X, ROWS)], passes=6, seed=3)
    np.testing.assert_allclose(first.log_p_NK, mc_dropout(model, [(X, ROWS)], passes=3, seed=3).log_p_NK, atol=1e-12)
    mean_NK = (np.exp(first.log_p_NK) + np.exp(second.log_p_NK)) / 2
    np.testing.assert_allclose(mean_NK, np.exp(six.log_p_NK), atol=1e-7)
