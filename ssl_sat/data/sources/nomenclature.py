"""Label nomenclatures of BigEarthNet: 43 CORINE Land Cover level-3 classes, and the 19 made of 32 of them.

Sumbul et al. 2021 (BigEarthNet-MM, IEEE GRSM 9(3), arXiv:2105.07921); the grouping is `label_conversion` of
label_indices.json in the repository BigEarthNet-MM_19-classes_models. Eleven classes have no counterpart: a patch
that holds nothing else has no label among the 19.
"""

from __future__ import annotations

from collections.abc import Iterable

# The 19 classes, in the order of label_indices.json, each with the level-3 classes it is made of.
NINETEEN: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
WITHOUT_COUNTERPART = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
_TO_19: dict[str, str | None] = {old: new for new, olds in NINETEEN.items() for old in olds}
_TO_19 |= dict.fromkeys(WITHOUT_COUNTERPART)
FORTY_THREE = tuple(sorted(_TO_19))


def to_19(names: Iterable[str]) -> tuple[str, ...]:
    """Return the classes among the 19 for level-3 names, sorted, none twice; () when none has a counterpart.

    Raises ValueError for a name that is none of the 43.
    """
    names = list(names)
    unknown = sorted(set(names) - set(_TO_19))
    if unknown:
        raise ValueError(f"not among the 43 CORINE level-3 classes: {', '.join(map(repr, unknown))}")
    return tuple(sorted({new for name in names if (new := _TO_19[name]) is not None}))
