"""Synthetic Sentinel-2 patches with known classes, written as files in BigEarthNet v1's real folder layout.

For tests, for a first run without a download, and for experiments with a known truth. Not a radiative transfer model:
end-member spectra are read off published curves (USGS Spectral Library Version 7, Kokaly et al. 2017, for vegetation,
soil and asphalt; clear water falls from 5 % in the blue to nothing in the short-wave infrared; clouds are bright, and
darker beyond 1.6 um) and rounded. A patch mixes its main class with patches of others, varies in vigour, moisture,
illumination and haze, and carries noise, so that its class can be learned but not read off one pixel.

Every patch has its own counter-based generator (Philox keyed by seed, counter = patch number): the files do not depend
on how many are written or in which order.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
from typing_extensions import override

from ssl_sat.bands import S2_L2A
from ssl_sat.data.sources.bigearthnet import GROUPS, BigEarthNetV1
from ssl_sat.data.sources.contract import Facts, LabelKind, PatchRef, by_fractions_or_none
from ssl_sat.data.sources.tiff import write_strips
from ssl_sat.data.spec import BigEarthNetV1Spec, ScenesSpec
from ssl_sat.data.splits import Assigned
from ssl_sat.spec import UserError

VERSION = 1  # of the generator: the same spec gives other pixels under another version
MARKER = "scenes.json"
_PX, _EPSG, _TILE = 120, 32632, "T32TQS"
# Reflectance at B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12 (the order of S2_L2A).
SPECTRA = {
    "water": (0.055, 0.050, 0.045, 0.030, 0.025, 0.020, 0.018, 0.015, 0.013, 0.011, 0.006, 0.004),
    "forest": (0.020, 0.022, 0.040, 0.025, 0.070, 0.180, 0.230, 0.250, 0.265, 0.260, 0.130, 0.060),
    "crops": (0.035, 0.045, 0.085, 0.055, 0.125, 0.300, 0.375, 0.405, 0.420, 0.400, 0.220, 0.120),
    "soil": (0.080, 0.100, 0.140, 0.190, 0.220, 0.240, 0.255, 0.270, 0.285, 0.290, 0.360, 0.310),
    "built_up": (0.130, 0.145, 0.165, 0.180, 0.190, 0.200, 0.210, 0.220, 0.225, 0.225, 0.250, 0.230),
    "asphalt": (0.075, 0.080, 0.088, 0.095, 0.100, 0.105, 0.108, 0.112, 0.115, 0.116, 0.135, 0.130),
    "cloud": (0.550, 0.560, 0.560, 0.570, 0.580, 0.590, 0.600, 0.600, 0.600, 0.500, 0.400, 0.320),
}
_LAND = ("built_up", "crops", "forest", "soil", "water")
_HAZE = np.array([0.020, 0.016, 0.011, 0.007, 0.006, 0.005, 0.004, 0.003, 0.003, 0.003, 0.0, 0.0], np.float32)


def build(spec: ScenesSpec) -> Scenes:
    """The source of synthetic scenes; writes them when they are first listed."""
    return Scenes(spec)


def parameters(spec: ScenesSpec) -> dict[str, object]:
    """What decides the files: classes, count, seed and the version of the generator."""
    classes = sorted(spec.classes)
    return {"classes": classes, "patches_per_class": spec.patches_per_class, "seed": spec.seed, "version": VERSION}


def default_root(spec: ScenesSpec) -> Path:
    """`outputs/scenes/<digest of the parameters>`."""
    digest = hashlib.sha256(json.dumps(parameters(spec), sort_keys=True).encode()).hexdigest()
    return Path("outputs/scenes") / digest[:8]


class Scenes(BigEarthNetV1):
    """Read like BigEarthNet v1, but with one label per patch: the first of its JSON, the main class."""

    def __init__(self, spec: ScenesSpec) -> None:
        super().__init__(BigEarthNetV1Spec(split="none"))
        self.spec = spec  # type: ignore[assignment]
        self.scenes = spec

    @cached_property
    def root(self) -> Path:
        """The folder of the scenes, written now if it is not there."""
        root = Path(self.scenes.root).expanduser() if self.scenes.root else default_root(self.scenes)
        write_scenes(root, self.scenes)
        return root

    @cached_property
    @override
    def facts(self) -> Facts:
        return dataclasses.replace(super().facts, synthetic=True)

    @property
    @override
    def label_kind(self) -> LabelKind:
        return "single"

    @override
    def labels_of(self, names: list[str]) -> tuple[str, ...]:
        return (names[0],)

    @override
    def split_files(self) -> dict[str, Path]:
        return {}

    @override
    def assign(self, refs: list[PatchRef]) -> Assigned:
        return by_fractions_or_none(self.scenes, self.scenes.split, refs)


def write_scenes(root: Path, spec: ScenesSpec) -> None:
    """Write the patches of `spec` into `root`; nothing happens when they are there already.

    Published by one rename, so that a killed run leaves no half-written set. Raises UserError when `root` holds
    something else.
    """
    wanted = parameters(spec)
    if (root / MARKER).is_file():
        if json.loads((root / MARKER).read_text()) != wanted:
            raise UserError(
                f"'{root}' holds other scenes than these ({MARKER}). Set data.root to another folder, or null "
                "for one of their own."
            )
        return
    if root.is_dir() and any(root.iterdir()):
        raise UserError(f"'{root}' is not empty and holds no {MARKER}: nothing is written. Choose another data.root.")
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{root.name}.partial-", dir=root.parent))
    try:
        classes = sorted(spec.classes)
        for number in range(len(classes) * spec.patches_per_class):
            write_patch(partial, number, classes[number % len(classes)], spec.seed)
        (partial / MARKER).write_text(json.dumps(wanted, sort_keys=True) + "\n")
        partial.chmod(0o755)
        os.rename(partial, root)
    except OSError:
        if not (root / MARKER).is_file():  # else another process was faster with the same files
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_patch(root: Path, number: int, main_class: str, seed: int) -> str:
    """Write patch `number` as twelve GeoTIFFs and its JSON; return its name."""
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, number]))
    month, day = divmod(int(rng.integers(0, 12 * 28)), 28)
    date = f"{2017 + (month + 6) // 12}{(month + 5) % 12 + 1:02d}{day + 1:02d}"
    column, row = number % 90, number // 90
    name = f"S2A_MSIL2A_{date}T101031_{column}_{row}"
    ulx, uly = 600_000.0 + 1200 * column, 5_000_040.0 - 1200 * row
    reflectance, present = compose(main_class, rng)
    (root / name).mkdir()
    for group in GROUPS:
        step = _PX // group.height
        at = [S2_L2A.index(band) for band in group.bands]
        means = reflectance[at].reshape(len(at), group.height, step, group.width, step).mean(axis=(2, 4))
        dn = np.clip(np.rint(means * 10_000), 1, 65_535).astype(np.uint16)
        for band, pixels in zip(group.bands, dn, strict=True):
            write_strips(root / name / f"{name}_{band}.tif", pixels, _EPSG, ulx, uly, float(10 * step))
    facts = {
        "labels": [main_class, *present],
        "coordinates": {"ulx": ulx, "uly": uly, "lrx": ulx + 1200, "lry": uly - 1200},
        "projection": f"EPSG:{_EPSG}",
        "tile_source": f"S2A_MSIL1C_{date}T101031_N0205_R022_{_TILE}_{date}T101608.SAFE",
        "acquisition_date": f"{date[:4]}-{date[4:6]}-{date[6:]} 10:10:31",
        "synthetic": True,
    }
    (root / name / f"{name}_labels_metadata.json").write_text(json.dumps(facts))
    return name


def compose(main_class: str, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Reflectance (12, 120, 120), float32, on the 10 m grid, and the other classes in the patch.

    A second land class covers 0 to 45 % of the patch; under clouds lies any land class.
    """
    ground = main_class if main_class != "cloud" else str(rng.choice(_LAND))
    other = str(rng.choice([name for name in _LAND if name != ground]))
    share = float(rng.uniform(0.0, 0.45))
    field = smooth_noise(rng, 12.0)
    alpha = _ramp(field - np.quantile(field, 1.0 - share), 0.25)
    image = _surface(ground, rng) * (1.0 - alpha) + _surface(other, rng) * alpha
    present = [other] if share > 0.05 else []
    if main_class == "cloud":
        clouds = smooth_noise(rng, 14.0) + 0.35 * smooth_noise(rng, 4.0)
        opacity = _ramp(clouds - np.quantile(clouds, 1.0 - rng.uniform(0.4, 0.9)), 0.8)
        bright = np.float32(rng.uniform(0.8, 1.2)) * (1.0 + 0.08 * smooth_noise(rng, 6.0))
        image = image * (1.0 - opacity) + _spectrum("cloud") * bright * opacity
        present = [ground, *present]
    image = image * np.float32(rng.lognormal(0.0, 0.2)) + (_HAZE * np.float32(rng.gamma(2.0, 0.5)))[:, None, None]
    image *= 1.0 + 0.02 * rng.standard_normal((12, 1, 1), np.float32)  # calibration and adjacency, by band
    image += 0.003 * rng.standard_normal(image.shape, np.float32)
    return np.maximum(image, 0.0001), present


def _surface(name: str, rng: np.random.Generator) -> np.ndarray:
    """One land class over the whole patch, (12, 120, 120)."""
    if name == "water":
        turbid = np.float32(rng.uniform(0.0, 0.25)) * (1.0 + 0.3 * smooth_noise(rng, 25.0))
        return _spectrum("water") * (1.0 - turbid) + 0.4 * _spectrum("soil") * turbid
    if name == "forest":
        canopy = 1.0 + 0.16 * smooth_noise(rng, 1.2) + 0.10 * smooth_noise(rng, 7.0)
        gaps = _ramp(smooth_noise(rng, 5.0) - rng.uniform(1.0, 2.2), 0.5)
        return _spectrum("forest") * canopy * (1.0 - gaps) + 0.6 * _spectrum("soil") * gaps
    if name == "soil":
        moist = (
            1.0 - np.float32(rng.uniform(0.0, 0.35)) + 0.08 * smooth_noise(rng, 15.0) + 0.05 * smooth_noise(rng, 2.0)
        )
        weeds = np.clip(rng.uniform(0.0, 0.25) + 0.08 * smooth_noise(rng, 8.0), 0.0, 0.5)
        return _spectrum("soil") * moist * (1.0 - weeds) + _spectrum("crops") * weeds
    if name == "crops":
        vigour, rows = _fields(rng), 1.0 + 0.06 * smooth_noise(rng, 1.0)
        return (_spectrum("crops") * vigour + _spectrum("soil") * (1.0 - vigour) * 0.85) * rows
    return _built_up(rng)


def _fields(rng: np.random.Generator) -> np.ndarray:
    """Vigour of the crop in [0, 1] on a turned grid of fields 200 to 500 m wide, (120, 120)."""
    u, v = _turned_axes(rng)
    width, height = rng.uniform(20.0, 50.0, 2)
    column = np.floor((u + rng.uniform(0, width)) / width).astype(int) % 16
    row = np.floor((v + rng.uniform(0, height)) / height + 0.5 * (column % 2)).astype(int) % 16
    vigour = rng.beta(1.6, 0.9, (16, 16)).astype(np.float32)
    return np.clip(vigour[column, row] + 0.05 * smooth_noise(rng, 6.0), 0.0, 1.0)


def _built_up(rng: np.random.Generator) -> np.ndarray:
    """Streets on a turned grid, roofs of different brightness between them, some gardens."""
    u, v = _turned_axes(rng)
    block = rng.uniform(7.0, 14.0)
    street = np.maximum(
        _ramp(1.2 - np.abs(u % block - block / 2), 0.6), _ramp(1.2 - np.abs(v % block - block / 2), 0.6)
    )
    roof = (1.0 + 0.35 * smooth_noise(rng, 1.0)) * np.float32(rng.uniform(0.75, 1.2))
    garden = np.clip(rng.uniform(0.05, 0.4) + 0.2 * smooth_noise(rng, 3.0), 0.0, 0.8)
    blocks = _spectrum("built_up") * np.maximum(roof, 0.2) * (1.0 - garden) + _spectrum("crops") * 0.7 * garden
    return blocks * (1.0 - street) + _spectrum("asphalt") * street


def _turned_axes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    angle = rng.uniform(0.0, np.pi / 2)
    y, x = np.mgrid[0:_PX, 0:_PX].astype(np.float32)
    u, v = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y, np.float32(np.cos(angle)) * y
    return u, v - np.float32(np.sin(angle)) * x


def _spectrum(name: str) -> np.ndarray:
    return np.array(SPECTRA[name], np.float32)[:, None, None]


def _ramp(values: np.ndarray, width: float) -> np.ndarray:
    """0 below zero, 1 above `width`, linear between, float32."""
    return np.clip(values / width, 0.0, 1.0).astype(np.float32)


def smooth_noise(rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Gaussian noise smoothed by a Gaussian of `sigma_px`, periodic, mean 0, standard deviation 1, (120, 120)."""
    spectrum = np.fft.rfft2(rng.standard_normal((_PX, _PX), np.float32)) * _transfer(sigma_px)
    return np.fft.irfft2(spectrum, (_PX, _PX)).astype(np.float32)


@functools.lru_cache(maxsize=32)
def _transfer(sigma_px: float) -> np.ndarray:
    """Transfer function of the Gaussian without its mean, scaled so that unit white noise keeps unit variance."""
    fy, fx = np.fft.fftfreq(_PX)[:, None], np.fft.rfftfreq(_PX)[None, :]
    gain = np.exp(-2.0 * (np.pi * sigma_px) ** 2 * (fy**2 + fx**2))
    gain[0, 0] = 0.0
    twice = np.full(gain.shape[1], 2.0)
    twice[0] = twice[-1] = 1.0  # columns that have no mirror image in a half spectrum
    return (gain / np.sqrt((np.square(gain) * twice).sum() / _PX**2)).astype(np.float32)
