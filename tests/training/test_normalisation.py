"""Whose statistics normalise the input."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ssl_sat.spec import ConfigError
from ssl_sat.training.imported import IMAGENET_MEAN
from ssl_sat.training.model_io import ModelCard, Normalisation
from ssl_sat.training.normalisation import of_artifact, of_new

RGB = ("B04", "B03", "B02")


def statistics(unit: str, value: float, bands: tuple[str, ...] = RGB, origin: str = "somewhere") -> Normalisation:
    return Normalisation(unit=unit, mean=dict.fromkeys(bands, value), std=dict.fromkeys(bands, 1.0), origin=origin)  # type: ignore[arg-type]


def card(normalisation: Normalisation, **values: Any) -> ModelCard:
    bands = tuple(normalisation.mean)
    return ModelCard(encoder={"name": "cnn"}, bands=bands, image_size=32, gsd_m=None, framing="crop",
                     normalisation=normalisation, initialisation="x", trained_on=[], **values)  # fmt: skip


def test_an_artifacts_statistics_are_kept_where_they_mean_the_same() -> None:
    theirs, own = statistics("display", 0.4), statistics("display", 0.3)
    held = card(theirs)
    assert [of_artifact(wanted, held, own, RGB) for wanted in ("auto", "weights", "data")] == [theirs, theirs, own]


def test_elsewhere_the_datas_are_taken_and_weights_is_refused() -> None:
    own, held = statistics("display", 0.3), card(statistics("reflectance", 0.1))
    assert of_artifact("auto", held, own, RGB) == own
    with pytest.raises(ConfigError, match="is of reflectance values, the data holds display values"):
        of_artifact("weights", held, own, RGB)
    lacking = card(statistics("display", 0.1, ("B04",)))
    assert of_artifact("auto", lacking, own, RGB) == own
    with pytest.raises(ConfigError, match="lacks B03, B02"):
        of_artifact("weights", lacking, own, RGB)


def test_imagenets_weights_bring_imagenets_statistics() -> None:
    own = statistics("display", 0.3)
    spec, held = SimpleNamespace(init="imagenet", init_units=None), card(own, weights={"normalisation": "x"})
    found = of_new("weights", spec, held, own)
    assert list(found.normalisation.mean.values()) == list(IMAGENET_MEAN.values())
    assert found.weights == {"normalisation": "ImageNet's mean and deviation"}
    assert of_new("auto", spec, held, own) is held
    reflectance = statistics("reflectance", 0.3, ("B08",))
    with pytest.raises(ConfigError, match="blue display values, the data holds reflectance values of B08"):
        of_new("weights", spec, card(reflectance), reflectance)


def test_statistics_that_nobody_knows_are_asked_for() -> None:
    own = statistics("display", 0.3)
    with pytest.raises(ConfigError, match="init=scratch has no weights"):
        of_new("weights", SimpleNamespace(init="scratch", init_units=None), card(own), own)
    with pytest.raises(ConfigError, match="state it, as in init_units=imagenet"):
        of_new("weights", SimpleNamespace(init="x.pth", init_units=None), card(own), own)


def test_a_file_that_says_what_it_was_fed_is_believed_unless_the_data_is_asked_for() -> None:
    own, theirs = statistics("reflectance", 0.3), statistics("reflectance", 0.0, origin="reflectance as it is")
    spec, held = SimpleNamespace(init="x.pth", init_units=None), card(theirs)
    assert of_new("weights", spec, held, own).normalisation == theirs
    assert of_new("data", spec, held, own).normalisation == own
