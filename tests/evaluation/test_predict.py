"""Predictions: one pass in eval mode, stored and read back to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.ood.mc_dropout import mc_dropout
from ssl_sat.spec import MissingInput, UserError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 2))

    def features(self, x_NCHW: Tensor) -> Tensor:
        return self.trunk(x_NCHW)

    def head(self, h_ND: Tensor) -> Tensor:
        return self.last(h_ND)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.features(x_NCHW))


X = torch.randn(10, 3, 6, 6, generator=torch.Generator().manual_seed(1))
ROWS = torch.tensor([3, 1, 4, 15, 9, 2, 6, 5, 8, 7])
NAMES = {
    "dataset": "made_up",
    "split": "test",
    "classes": ("water", "wald ü"),
    "ids": [f"patch {n}" for n in range(16)],
}


def predictions(size: int = 4, model: nn.Module | None = None) -> Predictions:
    parts = zip(X.split(size), ROWS.split(size), (ROWS % 2).split(size), strict=True)
    return predict(model or Net(), parts, **NAMES)  # type: ignore[arg-type]


def test_values_are_those_of_the_model_in_eval_mode() -> None:
    model = Net().train()
    model.trunk[1].eval()
    flags = [module.training for module in model.modules()]
    found = predictions(model=model)
    assert [module.training for module in model.modules()] == flags
    with torch.no_grad():
        expected = Net().eval()(X)
    np.testing.assert_allclose(found.logits_NK, expected.numpy(), atol=1e-6)
    assert found.features_ND.dtype == np.float32 and found.rows_N.tolist() == ROWS.tolist()
    assert found.ids[:2] == ("patch 3", "patch 1")
    np.testing.assert_allclose(predictions(1).logits_NK, found.logits_NK, atol=1e-6)


def test_saved_and_loaded_to_the_bit(tmp_path: Path) -> None:
    plain = predictions()
    full = plain.with_mc(mc_dropout(Net(), [(X, ROWS)], passes=3, seed=7))
    for each in (plain, full):
        paths = each.save(tmp_path / "made_up-test.v1")
        first = [path.read_bytes() for path in paths]
        loaded = Predictions.load(tmp_path / "made_up-test.v1")
        for name in ("features_ND", "logits_NK", "labels_N", "rows_N"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(each, name))
        assert (loaded.ids, loaded.classes, loaded.split, loaded.dataset) == (each.ids, each.classes, "test", "made_up")
        assert [path.read_bytes() for path in loaded.save(tmp_path / "made_up-test.v1")] == first
    assert loaded.mc is not None and (loaded.mc.passes, loaded.mc.seed) == (3, 7)
    np.testing.assert_array_equal(loaded.mc.mutual_information_N, full.mc.mutual_information_N)  # type: ignore[union-attr]


def test_take_keeps_samples_together() -> None:
    full = predictions().with_mc(mc_dropout(Net(), [(X, ROWS)], passes=3, seed=7))
    part = full.take(full.labels_N == 0)
    assert part.ids == tuple(f"patch {row}" for row in part.rows_N)
    assert part.mc is not None and np.array_equal(part.mc.rows_N, part.rows_N)
    assert np.array_equal(full.take(np.array([2, 0])).logits_NK, full.logits_NK[[2, 0]])


def test_mistakes_are_named(tmp_path: Path) -> None:
    good = predictions()
    with pytest.raises(ValueError, match="lengths differ"):
        replace(good, rows_N=good.rows_N[:-1])
    with pytest.raises(ValueError, match="other rows"):
        good.with_mc(mc_dropout(Net(), [(X, ROWS.flip(0))], passes=3, seed=7))
    broken = good.logits_NK.copy()
    broken[1] = np.nan
    with pytest.raises(UserError, match="the first 'patch 1'"):
        replace(good, logits_NK=broken)
    with pytest.raises(MissingInput, match=r"absent\.safetensors and absent\.json"):
        Predictions.load(tmp_path / "absent")
    paths = good.save(tmp_path / "old")
    paths[1].write_text(json.dumps({**json.loads(paths[1].read_text()), "format": 0}))
    with pytest.raises(UserError, match="format 0"):
        Predictions.load(tmp_path / "old")
