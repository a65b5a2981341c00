"""Predictions: one pass in eval mode, stored and read back to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.ood.mc_dropout import mc_dropout
from ssl_sat.ood.spec import McDropoutSpec
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
    assert isinstance(loaded.features_ND, np.memmap)
    assert loaded.mc is not None and (loaded.mc.passes, loaded.mc.seed) == (3, 7)
    np.testing.assert_array_equal(loaded.mc.mutual_information_N, full.mc.mutual_information_N)  # type: ignore[union-attr]


def test_what_earlier_versions_stored_is_read(tmp_path: Path) -> None:
    full = predictions().with_mc(mc_dropout(Net(), [(X, ROWS)], passes=3, seed=7))
    arrays = {name: getattr(full, name) for name in ("features_ND", "logits_NK", "labels_N", "rows_N")}
    sampled = {f"mc.{name}": value for name, value in vars(full.mc).items() if isinstance(value, np.ndarray)}
    save_file(arrays | sampled, tmp_path / "old.safetensors")
    names = {"format": 1, "dataset": "made_up", "split": "test", "mc": {"passes": 3, "seed": 7}}
    (tmp_path / "old.json").write_text(json.dumps(names | {"classes": list(full.classes), "ids": list(full.ids)}))
    old = Predictions.load(tmp_path / "old")
    assert np.array_equal(old.logits_NK, full.logits_NK) and old.ids == full.ids
    assert old.mc is not None and old.mc.method == "exact"
    assert np.array_equal(old.mc.mutual_information_N, full.mc.mutual_information_N)  # type: ignore[union-attr]


@pytest.mark.parametrize("mc", [None, McDropoutSpec(passes=4, seed=7, repeats=2)])
def test_written_batch_by_batch_it_is_what_memory_gives(tmp_path: Path, mc: McDropoutSpec | None) -> None:
    parts = list(zip(X.split(4), ROWS.split(4), (ROWS % 2).split(4), strict=True))
    held = predict(Net(), parts, **NAMES, mc=mc)  # type: ignore[arg-type]
    kept = predict(Net(), parts, **NAMES, mc=mc, store=tmp_path / "kept")  # type: ignore[arg-type]
    again = Predictions.load(tmp_path / "kept")
    paths = held.save(tmp_path / "held")
    assert isinstance(kept.logits_NK, np.memmap)
    for path in paths:
        assert path.read_bytes() == (tmp_path / "kept" / path.name).read_bytes()
    assert again.ids == held.ids and len(again.mc_repeats) == (0 if mc is None else 1)


def test_one_run_gives_what_several_gave() -> None:
    """Features and logits beside dropout passes are those of a plain run; the passes those of mc_dropout."""
    parts = list(zip(X.split(4), ROWS.split(4), (ROWS % 2).split(4), strict=True))
    both = predict(Net(), parts, **NAMES, mc=McDropoutSpec(passes=6, seed=7, repeats=3))  # type: ignore[arg-type]
    plain, alone = predictions(), mc_dropout(Net(), [(X, ROWS)], passes=6, seed=7)
    np.testing.assert_allclose(both.logits_NK, plain.logits_NK, atol=1e-6)
    np.testing.assert_allclose(both.features_ND, plain.features_ND, atol=1e-6)
    assert both.mc is not None and both.mc.passes == 6
    np.testing.assert_allclose(both.mc.mutual_information_N, alone.mutual_information_N, atol=1e-7)
    assert len(both.mc_repeats) == 2
    assert not np.allclose(both.mc_repeats[0].mutual_information_N, both.mc.mutual_information_N)


def test_the_last_layer_and_its_inputs_are_recorded() -> None:
    """A linear head works on the features themselves; an MLP on what its last hidden layer gives."""
    plain = predictions()
    assert plain.last is not None and plain.hidden_NP is None and plain.penultimate_NP is plain.features_ND
    np.testing.assert_allclose(plain.last(plain.penultimate_NP), plain.logits_NK, atol=1e-6)
    deep = Net()
    deep.last = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.2), nn.Linear(7, 2, bias=False))
    found = predictions(model=deep)
    assert found.last is not None and found.hidden_NP is not None and found.hidden_NP.shape == (10, 7)
    np.testing.assert_allclose(found.last(found.hidden_NP), found.logits_NK, atol=1e-6)
    assert found.take(np.array([3, 1])).hidden_NP.shape == (2, 7)  # type: ignore[union-attr]
    bent = Net()
    bent.last.append(nn.Tanh())
    assert predictions(model=bent).last is None


def test_an_ensemble_is_of_the_same_samples() -> None:
    models = [Net() for _ in range(3)]
    for number, model in enumerate(models):
        with torch.no_grad():
            model.last[1].weight.mul_(1 + number)
    each = [predictions(model=model) for model in models]
    joined = each[0].with_members(each[1:])
    p_MNK = np.stack([np.exp(p.logits_NK) / np.exp(p.logits_NK).sum(1, keepdims=True) for p in each])
    mean_NK = p_MNK.mean(0)
    assert joined.members is not None and (joined.members.passes, joined.members.method) == (3, "ensemble")
    np.testing.assert_allclose(joined.members.predictive_entropy_N, -(mean_NK * np.log(mean_NK)).sum(1), rtol=1e-5)
    with pytest.raises(ValueError, match="same samples"):
        each[0].with_members([each[1].take(np.arange(9, -1, -1))])
    with pytest.raises(UserError, match="at least 2 networks"):
        each[0].with_members([])


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
    with pytest.raises(MissingInput, match=r"absent \(no predictions\.json in it\)"):
        Predictions.load(tmp_path / "absent")
    paths = good.save(tmp_path / "old")
    paths[-1].write_text(json.dumps({**json.loads(paths[-1].read_text()), "format": 0}))
    with pytest.raises(UserError, match="format 0"):
        Predictions.load(tmp_path / "old")
    good.save(tmp_path / "torn")
    (tmp_path / "torn" / "logits_NK.npy").unlink()
    with pytest.raises(MissingInput, match=r"torn lacks logits_NK\.npy"):
        Predictions.load(tmp_path / "torn")
