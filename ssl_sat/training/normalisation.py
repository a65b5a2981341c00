"""Whose mean and standard deviation normalise the input: the weights' or the data's. The choice stands in the card.

`auto` keeps the statistics that the weights were trained with where the data has the same unit and bands, and takes the
data's elsewhere, because there the weights' mean nothing. `weights` and `data` insist, and `weights` fails where it
cannot be done.
"""

from __future__ import annotations

from typing import Any

from ssl_sat.spec import ConfigError
from ssl_sat.training.imported import normalised_for
from ssl_sat.training.model_io import ModelCard, Normalisation


def of_artifact(wanted: str, held: ModelCard, own: Normalisation, bands: tuple[str, ...]) -> Normalisation:
    """For an encoder that starts from an artifact with the card `held`; `own` is the data's, for `bands`."""
    theirs = held.normalisation
    lacking = [name for name in bands if name not in theirs.mean]
    fits = theirs.unit == own.unit and not lacking
    if wanted == "data" or (wanted == "auto" and not fits):
        return own
    if not fits:
        why = f"is of {theirs.unit} values, the data holds {own.unit} values" if theirs.unit != own.unit else ""
        why = why or f"lacks {', '.join(lacking)}"
        raise ConfigError(
            f"normalisation=weights: that of the weights ({theirs.origin}) {why}. Take normalisation=data."
        )
    return theirs


def of_new(wanted: str, spec: Any, card: ModelCard, own: Normalisation) -> ModelCard:
    """The card of an encoder that starts from nothing or from weights of others, with the normalisation asked for.

    `own` is the data's. Weights of ImageNet that do not say otherwise were fed its mean and deviation.
    """
    if wanted == "auto":
        return card
    chosen = own if wanted == "data" else _of_weights(spec, card, own)
    weights = {**card.weights, "normalisation": chosen.origin} if card.weights else card.weights
    return card.model_copy(update={"normalisation": chosen, "weights": weights})


def _of_weights(spec: Any, card: ModelCard, own: Normalisation) -> Normalisation:
    if spec.init == "scratch":
        raise ConfigError("normalisation=weights: init=scratch has no weights with statistics; take auto or data.")
    if card.normalisation.mean != own.mean:
        return card.normalisation
    if spec.init != "imagenet" or spec.init_units is not None:
        raise ConfigError(
            "normalisation=weights: nothing says what these weights were fed; state it, as in init_units=imagenet."
        )
    theirs = normalised_for("imagenet", card.model_copy(update={"normalisation": own}))
    if theirs.mean == own.mean:
        raise ConfigError(
            "normalisation=weights: ImageNet's statistics are of red, green and blue display values, the data holds "
            f"{own.unit} values of {', '.join(card.bands)}. Take normalisation=data."
        )
    return theirs
