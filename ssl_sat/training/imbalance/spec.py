"""What the answers to imbalance are configured by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_sat.spec import Spec


class NoneSpec(Spec):
    """Every patch once an epoch, every patch with the same weight."""

    name: Literal["none"] = "none"


class WeightedSpec(Spec):
    """Loss weighted by class, w = n ** -power, so that the mean weight of a training patch is 1.

    power 1 gives every class the same say (scikit-learn's 'balanced'), 0.5 is half-way (in logarithms). With several
    labels a patch the yes of each class is weighted by (its no / its yes) ** power, torch's pos_weight.
    """

    name: Literal["weighted"] = "weighted"
    power: float = Field(1.0, gt=0, le=2)


class EffectiveNumberSpec(Spec):
    """Loss weighted by the effective number of patches of a class, w = (1 - beta) / (1 - beta ** n) (Cui et al. 2019).

    beta 0 weighs nothing, beta towards 1 by inverse frequency; the paper takes 0.9 to 0.9999. Their weights sum to the
    number of classes; ours have mean 1 over the training patches, so that one rate suits all betas.
    """

    name: Literal["effective_number"] = "effective_number"
    beta: float = Field(0.999, ge=0, lt=1)


class FocalSpec(Spec):
    """Focal loss, (1 - p) ** gamma times the cross-entropy (Lin et al. 2017).

    alpha: weight of the yes (the second of two classes), 1 - alpha that of the no; `inverse` weighs by inverse class
    frequency, as imbalance=weighted; null weighs nothing.
    """

    name: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0)
    alpha: float | Literal["inverse"] | None = None


class SamplerSpec(Spec):
    """Patches drawn with replacement, each with a probability proportional to n ** -power, n being its class's size.

    power 1 shows every class equally often, 0.5 is half-way. An epoch has as many draws as there are patches. With
    several labels a patch counts by its rarest class. A patch that is drawn again is augmented anew.
    """

    name: Literal["sampler"] = "sampler"
    power: float = Field(1.0, gt=0, le=2)


class CappedNegativesSpec(Spec):
    """At most `ratio` patches of the negative class for every other patch; the rest of them is left out.

    negative: the class that is too frequent; null takes the most frequent one. With several labels a patch those
    without any label are the negatives, or those with the named class alone. redraw: another choice every epoch.
    """

    name: Literal["capped_negatives"] = "capped_negatives"
    negative: str | None = None
    ratio: float = Field(1.0, gt=0)
    redraw: bool = False
