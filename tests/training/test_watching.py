"""Watching sees the encoder as a transfer would, and leaves no trace on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import packs

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.data.packed import Pack
from ssl_sat.encoders.stem import map_bands, stem_keys
from ssl_sat.evaluation.packs import batches
from ssl_sat.losses.collapse import rankme
from ssl_sat.methods import METHODS
from ssl_sat.spec import ConfigError
from ssl_sat.training import setup, watching
from ssl_sat.training.model_io import ModelCard, Normalisation, build_encoder
from ssl_sat.training.spec import WatchSpec

WIDE = ((("B02", "B03", "B04", "B08"), 16, 10.0), (("B05",), 8, 20.0))
NARROW = ((("B04", "B03", "B02"), 16, 10.0),)
CPU = torch.device("cpu")


class Spec:
    """The fields of a PretrainSpec that watching reads."""

    augment, seed, batch_size = AugmentSpec(name="none"), 0, 7
    watch = WatchSpec(k=2, max_fit=20, max_score=6, score="train")


def card_of(pack: Pack) -> ModelCard:
    mean, std = {band: 3.0 for band in pack.bands}, {band: 2.0 for band in pack.bands}
    normalisation = Normalisation(unit="reflectance", mean=mean, std=std, origin="fake")
    return ModelCard(
        encoder={"name": "cnn", "dropout": 0.1}, bands=pack.bands, image_size=16, gsd_m=10.0, framing="crop",
        normalisation=normalisation, initialisation="scratch", trained_on=["fake"],
    )  # fmt: skip


@pytest.fixture
def wide(tmp_path: Path) -> Pack:
    return packs.write(tmp_path / "wide", 60, groups=WIDE)


@pytest.fixture
def narrow(tmp_path: Path) -> Pack:
    return packs.write(tmp_path / "narrow", 60, groups=NARROW)


def method_for(card: ModelCard):
    encoder = build_encoder(card, seed=3)
    return METHODS.build(METHODS.parse({"name": "simclr"}), encoder=encoder, seed=3)


def test_fewer_bands_are_seen_through_the_filters_of_their_names(wide, narrow):
    card = card_of(wide)
    method = method_for(card)
    probe = watching.labelled_probe(Spec, narrow, card)
    assert set(probe.card.bands) == {"B02", "B03", "B04"} and probe.copy is not None
    assert probe.card.normalisation == card.normalisation  # the unit is the same

    for _ in range(2):  # the second time with other weights: nothing is remembered
        probe.measure(method.encoder, CPU)
        state = method.encoder.state_dict()
        expected = build_encoder(probe.card).eval()
        expected.load_state_dict(
            map_bands(state, stem_keys(method.encoder), card.bands, probe.card.bands, "by_name", 0)
        )
        for x_NCHW, _, _ in batches(narrow, probe.score_N, probe.views.center, 7, CPU):
            with torch.no_grad():
                assert torch.equal(probe.copy(x_NCHW), expected(x_NCHW))
        with torch.no_grad():
            next(method.encoder.parameters()).mul_(1.5)


def test_no_shared_band_and_a_split_without_patches_are_refused_before_training(wide, tmp_path):
    other = packs.write(tmp_path / "other", 60, groups=((("B11", "B12"), 16, 20.0),))
    with pytest.raises(ConfigError, match="has none of the encoder's bands"):
        watching.labelled_probe(Spec, other, card_of(wide))

    class TooMany(Spec):
        watch = WatchSpec(k=5000, score="train")

    with pytest.raises(ConfigError, match=r"too few for watch.k=5000"):
        watching.labelled_probe(TooMany, wide, card_of(wide))


def test_modes_weights_and_the_global_generator_are_left_alone(wide):
    card = card_of(wide)
    method = method_for(card)
    method.train()
    method.encoder.blocks[0].eval()  # a frozen part
    views = setup.views(Spec.augment, wide, card, 0)
    rank = watching.RankSample(wide, views, np.arange(24), 7)
    watch = watching.Watch(1, rank, watching.labelled_probe(Spec, wide, card))
    modes = {name: part.training for name, part in method.named_modules()}
    state = {name: value.clone() for name, value in method.state_dict().items()}
    generator, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = watch.measure(method, CPU), watch.measure(method, CPU)
    assert first == second
    assert {name: part.training for name, part in method.named_modules()} == modes
    assert all(torch.equal(value, method.state_dict()[name]) for name, value in state.items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert np.array_equal(np.random.get_state()[1], numpy_state)

    method.eval()
    with torch.no_grad():
        x_NCHW = torch.cat([x for x, _, _ in batches(wide, np.arange(24), views.center, 7, CPU)])
        assert first["rankme"] == pytest.approx(float(rankme(method.embed(x_NCHW[None])[0])), rel=1e-4)
        assert first["rankme_features"] == pytest.approx(float(rankme(method.encoder(x_NCHW))), rel=1e-4)


def test_the_choice_of_patches_is_keyed_and_nested_in_the_rows():
    rows = np.arange(100, 200)
    assert np.array_equal(watching.chosen(rows, 30, 1, "train"), watching.chosen(rows, 30, 1, "train"))
    assert not np.array_equal(watching.chosen(rows, 30, 1, "train"), watching.chosen(rows, 30, 2, "train"))
    assert set(watching.chosen(rows, 30, 1, "train")) <= set(rows)
    assert np.array_equal(watching.chosen(rows, 100, 1, "train"), rows)
