"""Which classes of one data set are in another: what an out-of-distribution set shares with the classes of the model.

A detector that accepts a forest of UC Merced as `Forest` is not wrong about what is on the ground; only the sensor is
another one. So the two kinds are reported apart:

    overlapping   the same land use under another name (UC Merced's `freeway` is EuroSAT's `Highway`)
    partial       in part, or a matter of opinion (`overpass` holds a highway; `beach` is half sea)
    novel         nothing of the kind among the classes of the model

The lists are by hand, from the published class descriptions (Helber et al. 2019; Yang & Newsam 2010). Where there is
none, classes of equal name (case and punctuation aside) overlap and all others are novel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Relation = Literal["overlapping", "partial", "novel"]
RELATIONS: tuple[Relation, ...] = ("overlapping", "partial", "novel")

# (family of the model's data, family of the other): class there -> (relation, classes of the model that it holds)
_LISTS: Mapping[tuple[str, str], Mapping[str, tuple[Relation, tuple[str, ...]]]] = {
    ("eurosat", "ucmerced"): {
        "agricultural": ("overlapping", ("AnnualCrop", "PermanentCrop")),
        "forest": ("overlapping", ("Forest",)),
        "freeway": ("overlapping", ("Highway",)),
        "river": ("overlapping", ("River",)),
        "denseresidential": ("overlapping", ("Residential",)),
        "mediumresidential": ("overlapping", ("Residential",)),
        "sparseresidential": ("overlapping", ("Residential",)),
        "mobilehomepark": ("partial", ("Residential",)),
        "buildings": ("partial", ("Industrial", "Residential")),
        "storagetanks": ("partial", ("Industrial",)),
        "overpass": ("partial", ("Highway",)),
        "intersection": ("partial", ("Highway", "Residential")),
        "beach": ("partial", ("SeaLake",)),
        "harbor": ("partial", ("SeaLake",)),
        "chaparral": ("partial", ("HerbaceousVegetation",)),
        "golfcourse": ("partial", ("Pasture", "HerbaceousVegetation")),
        "airplane": ("novel", ()),
        "baseballdiamond": ("novel", ()),
        "parkinglot": ("novel", ()),
        "runway": ("novel", ()),
        "tenniscourt": ("novel", ()),
    },
}


def family(source: str) -> str:
    """The data set behind a source: `eurosat` for eurosat_rgb and eurosat_ms."""
    return source.removesuffix("_rgb").removesuffix("_ms")


def relations(
    source: str, classes: Sequence[str], other_source: str, other_classes: Sequence[str]
) -> dict[str, Relation]:
    """How each class of the other data set stands to the model's `classes`, of `source`.

    A class whose counterparts were all held out from the model is novel to it.
    """
    listed = _LISTS.get((family(source), family(other_source)), {})
    known = {_plain(name) for name in classes}
    return {name: _relation(name, listed, known, classes) for name in other_classes}


def _relation(
    name: str, listed: Mapping[str, tuple[Relation, tuple[str, ...]]], known: set[str], classes: Sequence[str]
) -> Relation:
    if name not in listed:
        return "overlapping" if _plain(name) in known else "novel"
    relation, counterparts = listed[name]
    return relation if set(counterparts) & set(classes) else "novel"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
