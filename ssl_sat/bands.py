"""Spectral bands by name. A position in an array exists only here and in the index of a pack.

Central wavelengths are those of Sentinel-2A (ESA, Sentinel-2 MSI User Guide, table 'Spectral bands');
S2B differs by at most 2.5 nm outside B12 (2185.7 nm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_sat.spec import ConfigError, suggest


@dataclass(frozen=True)
class Band:
    """One band: its name, the field's common name, central wavelength and native ground sampling distance."""

    name: str
    common_name: str
    wavelength_nm: float
    gsd_m: float


_SENTINEL2 = (
    Band("B01", "coastal", 442.7, 60.0),
    Band("B02", "blue", 492.7, 10.0),
    Band("B03", "green", 559.8, 10.0),
    Band("B04", "red", 664.6, 10.0),
    Band("B05", "rededge1", 704.1, 20.0),
    Band("B06", "rededge2", 740.5, 20.0),
    Band("B07", "rededge3", 782.8, 20.0),
    Band("B08", "nir", 832.8, 10.0),
    Band("B8A", "nir08", 864.7, 20.0),
    Band("B09", "nir09", 945.1, 60.0),
    Band("B10", "cirrus", 1373.5, 60.0),
    Band("B11", "swir16", 1613.7, 20.0),
    Band("B12", "swir22", 2202.4, 20.0),
)
# Aerial cameras publish no response curve with UC Merced; the wavelengths are nominal.
_AERIAL = (
    Band("red", "red", 650.0, 0.3),
    Band("green", "green", 550.0, 0.3),
    Band("blue", "blue", 450.0, 0.3),
)
_BY_NAME = {band.name: band for band in _SENTINEL2 + _AERIAL}

S2_L1C = tuple(band.name for band in _SENTINEL2)
S2_L2A = tuple(name for name in S2_L1C if name != "B10")  # atmospheric correction leaves no cirrus band
S2_RGB = ("B04", "B03", "B02")
AERIAL_RGB = ("red", "green", "blue")

BAND_SETS: dict[str, tuple[str, ...]] = {
    "sentinel2_l1c": S2_L1C,
    "sentinel2_l2a": S2_L2A,
    "sentinel2_rgb": S2_RGB,
    "rgb_aerial": AERIAL_RGB,
}


def band(name: str) -> Band:
    """Return the facts of a band; raise ConfigError with the nearest known name if there is none."""
    if name not in _BY_NAME:
        raise ConfigError(f"no band '{name}' (there are: {', '.join(_BY_NAME)}){suggest(name, _BY_NAME)}")
    return _BY_NAME[name]


def wavelengths_nm(names: Sequence[str]) -> list[float]:
    """Central wavelengths in nanometres of the named bands, in their order."""
    return [band(name).wavelength_nm for name in names]


def positions(wanted: Sequence[str], present: Sequence[str]) -> list[int]:
    """Return where each wanted band stands among the present ones.

    A band is found by its name, or else by its common name (`B04` finds `red` of an aerial camera).
    Raises ConfigError naming all bands that are missing.
    """
    found, missing = [], []
    for name in wanted:
        at = find(name, present)
        if at is None:
            missing.append(name)
        else:
            found.append(at)
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(wanted)} bands missing: {', '.join(missing)} (present: {', '.join(present)}). "
            f"Choose bands that are there, or map the encoder's stem to other bands (stem=by_name|by_wavelength)."
        )
    return found


def find(name: str, present: Sequence[str]) -> int | None:
    """Return the position of a band among `present`, by name or else by common name; None if it is absent."""
    if name in present:
        return list(present).index(name)
    common = band(name).common_name
    same = [at for at, other in enumerate(present) if other in _BY_NAME and band(other).common_name == common]
    return same[0] if same else None
