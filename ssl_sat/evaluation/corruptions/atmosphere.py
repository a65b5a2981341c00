"""Clouds and their shadows, haze, and the processing level: in reflectance, by wavelength of the band.

Cloud     ground in shadow: x (1 - s (1 - d(l)));  under cloud: (1 - a) x + a c(l)
          a = opacity of a fractal field, s = the same field moved away from the sun, d = diffuse share of the light,
          c = reflectance of a thick water cloud.
Haze      t(l) x + (1 - t(l)) A,  t(l) = exp(-tau (l / 550 nm)^-1.3)   (Koschmieder; exponent of Angstrom 1929 for
          continental aerosol), A = 0.30, the reflectance of a thick layer.
Level     L1C = R(l) + T(l) L2A, of the molecules alone: optical depth tau_R by wavelength (`rayleigh_depth`),
          R = tau_R P / (4 mu_s mu_v) (single scattering), T = exp(-tau_R / 2 (1 / mu_s + 1 / mu_v)); sun at 40 degrees
          from the zenith, view at nadir. L1C becomes L2A by the inverse. Absorption by gases is left out.
"""

# N patches, C bands, H x W pixels

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sat.augment.draws import Draws
from ssl_sat.bands import wavelengths_nm
from ssl_sat.evaluation.corruptions.scene import Corruption, Scene
from ssl_sat.evaluation.corruptions.spec import CloudSpec, HazeSpec, LevelSpec

# nm, reflectance
_CLOUD = ((440, 0.72), (560, 0.74), (865, 0.76), (945, 0.55), (1375, 0.06), (1610, 0.55), (2200, 0.35))
_EDGE = 0.6  # of a cloud: from transparent to opaque, in standard deviations of its field
_ROUGHNESS = 1.7  # amplitude of the field falls as frequency to this power
_HAZE_LAYER, _ANGSTROM = 0.30, 1.3
_SUN = math.cos(math.radians(40.0))


def cloud(spec: CloudSpec) -> Corruption:
    """Clouds of a fractal outline, with shadows that fall a tenth to a third of the patch away."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        opacity_NHW = cloud_opacity(draws, scene.size, spec.levels[severity - 1])
        shadow_NHW = moved(opacity_NHW, *_away_from_sun(draws, scene.size))

        def change(x_NCHW: Tensor, at: int) -> Tensor:
            bands = scene.bands[at]
            a, s = (
                F.adaptive_avg_pool2d(f[:, None], (x_NCHW.shape[2], x_NCHW.shape[3])) for f in (opacity_NHW, shadow_NHW)
            )
            shaded = x_NCHW * (1 - s * (1 - _column(diffuse_share(bands), x_NCHW)))
            return (1 - a) * shaded + a * _column(cloud_reflectance(bands), x_NCHW)

        return scene.map(change)

    return corrupt


def cloud_opacity(draws: Draws, size: tuple[int, int], cover: float) -> Tensor:
    """Opacity (N, H, W) in 0 ... 1, above 0 on a share `cover` of every patch; pointwise rising in `cover`."""
    height, width = size
    noise_NHW = draws.normal("cloud", height, width)
    fy, fx = torch.fft.fftfreq(height, device=noise_NHW.device), torch.fft.fftfreq(width, device=noise_NHW.device)
    frequency_HW = (fy[:, None].square() + fx[None, :].square()).sqrt()
    frequency_HW[0, 0] = math.inf  # no mean
    field_NHW = torch.fft.ifft2(torch.fft.fft2(noise_NHW) * frequency_HW**-_ROUGHNESS).real
    field_NHW = field_NHW / field_NHW.std(dim=(1, 2), keepdim=True)
    covered = max(1, round(cover * height * width))
    edge_N = field_NHW.flatten(1).topk(covered + 1).values[:, -1]
    return ((field_NHW - edge_N[:, None, None]) / _EDGE).clamp(0, 1)


def _away_from_sun(draws: Draws, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the shadow falls, in pixels (N,), rows and columns."""
    angle_N = draws.uniform("cloud-azimuth", high=2 * math.pi)
    reach_N = draws.uniform("cloud-height", low=0.1, high=0.33)
    return (reach_N * size[0] * angle_N.sin()).round().long(), (reach_N * size[1] * angle_N.cos()).round().long()


def moved(field_NHW: Tensor, down_N: Tensor, right_N: Tensor) -> Tensor:
    """Each field moved by whole pixels; what leaves on one side enters on the other (the field is periodic)."""
    n, height, width = field_NHW.shape
    device = field_NHW.device
    rows_NH = (torch.arange(height, device=device)[None] - down_N[:, None]) % height
    columns_NW = (torch.arange(width, device=device)[None] - right_N[:, None]) % width
    return field_NHW[torch.arange(n, device=device)[:, None, None], rows_NH[:, :, None], columns_NW[:, None, :]]


def cloud_reflectance(bands: Sequence[str]) -> list[float]:
    """Reflectance of a thick water cloud: white in the visible, dark where water vapour and droplets absorb."""
    at, values = zip(*_CLOUD, strict=True)
    return np.interp(wavelengths_nm(bands), at, values).tolist()


def diffuse_share(bands: Sequence[str]) -> list[float]:
    """Share of the light that comes from the sky and reaches a shadow: a third in the blue, little in the infrared."""
    return [min(1.0, 0.25 * (wavelength / 550) ** -1.5) for wavelength in wavelengths_nm(bands)]


def haze(spec: HazeSpec) -> Corruption:
    """One homogeneous layer; nothing is drawn."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        def change(x_NCHW: Tensor, at: int) -> Tensor:
            t_C = _column(haze_transmission(scene.bands[at], spec.levels[severity - 1]), x_NCHW)
            return t_C * x_NCHW + (1 - t_C) * _HAZE_LAYER

        return scene.map(change)

    return corrupt


def haze_transmission(bands: Sequence[str], depth: float) -> list[float]:
    """t = exp(-depth (wavelength / 550 nm)^-1.3): rising with wavelength."""
    return [math.exp(-depth * (wavelength / 550) ** -_ANGSTROM) for wavelength in wavelengths_nm(bands)]


def level(spec: LevelSpec) -> Corruption:
    """L2A as L1C, or L1C as L2A; nothing is drawn."""

    def corrupt(scene: Scene, severity: int, draws: Draws) -> Scene:
        def change(x_NCHW: Tensor, at: int) -> Tensor:
            path, through = (_column(v, x_NCHW) for v in molecules(scene.bands[at], spec.levels[severity - 1]))
            return path + through * x_NCHW if scene.level == "L2A" else (x_NCHW - path) / through

        return scene.map(change)

    return corrupt


def rayleigh_depth(wavelength_nm: float) -> float:
    """Optical depth of the molecules above sea level: 0.00864 l^-(3.916 + 0.074 l + 0.050 / l), l in micrometres.

    Frohlich & Shaw 1980, standard pressure. 0.360 at 400 nm, 0.097 at 550 nm.
    """
    l_um = wavelength_nm / 1000
    return 0.00864 * l_um ** -(3.916 + 0.074 * l_um + 0.050 / l_um)


def molecules(bands: Sequence[str], atmospheres: float) -> tuple[list[float], list[float]]:
    """Path reflectance and two-way transmission per band."""
    depths = [atmospheres * rayleigh_depth(wavelength) for wavelength in wavelengths_nm(bands)]
    phase = 0.75 * (1 + _SUN**2)  # scattering back to nadir: the angle's cosine is that of the sun's zenith, negative
    return [d * phase / (4 * _SUN) for d in depths], [math.exp(-d / 2 * (1 / _SUN + 1)) for d in depths]


def _column(values: Sequence[float], like_NCHW: Tensor) -> Tensor:
    """Values per band, ready to multiply (N, C, H, W)."""
    return torch.tensor(values, dtype=torch.float32, device=like_NCHW.device)[:, None, None]
