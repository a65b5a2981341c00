"""A detector without any network: twelve image statistics and a Mahalanobis distance.

Two data sets that differ in sensor, resolution or file format can be told apart without seeing what is on the
ground. This probe measures how far that goes. An OOD result means something only as its gain over the probe.

The twelve statistics of an image, in reflectance or display units, before normalisation. R, G, B are the bands
red, green and blue by common name where all three are there, else the first, middle and last band. Y = (R+G+B)/3.
dx, dy are differences of neighbouring pixels, L the 3 x 3 Laplacian (sum of 4 neighbours - 4 Y), inner pixels only.
P(f) is the power of the 2-D Fourier transform of Y - mean(Y); f is the radial frequency in cycles per pixel.

     1  mean(R)              2  mean(G)             3  mean(B)
     4  std(R)               5  std(G)              6  std(B)
     7  log(mean |dx Y| + e)     8  log(mean |dy Y| + e)
     9  log(var(L) + e^2)       10  log((sum of P over f > 1/4 + t) / (sum of P + t)),   t = number of pixels^2 e^2
    11  mean(max(R,G,B) - min(R,G,B))     12  std(max(R,G,B) - min(R,G,B))       e = 1e-4

They are compared with one mean and one full covariance, fitted on ID training images only.
"""

# N samples, C bands, S = 12 statistics

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_sat.bands import find
from ssl_sat.ood.gaussian import TiedGaussian, fit_tied
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import PROBE
from ssl_sat.spec import ConfigError

STATISTICS = (
    "mean_red",
    "mean_green",
    "mean_blue",
    "std_red",
    "std_green",
    "std_blue",
    "log_gradient_x",
    "log_gradient_y",
    "log_laplacian_variance",
    "log_high_frequency_share",
    "mean_chroma",
    "std_chroma",
)
MIN_FIT = 10 * len(STATISTICS)  # images, so that a covariance of twelve statistics means something
_FLOOR = 1e-4
_SHRINKAGE = 1e-6


def display_positions(bands: Sequence[str]) -> tuple[int, int, int]:
    """Positions of red, green and blue by common name, or else of the first, middle and last band."""
    found = [_named(common, bands) for common in ("red", "green", "blue")]
    if None not in found:
        return tuple(found)  # type: ignore[return-value]
    return 0, len(bands) // 2, len(bands) - 1


def _named(common: str, bands: Sequence[str]) -> int | None:
    try:
        return find(common, bands)
    except ConfigError:
        return None


def image_statistics(x_NCHW: Tensor, bands: Sequence[str]) -> Tensor:
    """The twelve statistics of each image, (N, 12) float64, in the order of STATISTICS. Images at least 3 x 3."""
    if x_NCHW.ndim != 4 or x_NCHW.shape[1] != len(bands) or min(x_NCHW.shape[2:]) < 3:
        raise ValueError(f"images must be (N, {len(bands)}, H >= 3, W >= 3), not {tuple(x_NCHW.shape)}")
    if not x_NCHW.is_floating_point():
        raise ValueError(f"images must be floating point in reflectance or display units, not {x_NCHW.dtype}")
    rgb_N3HW = x_NCHW[:, list(display_positions(bands))].double()
    y_NHW = rgb_N3HW.mean(dim=1)
    chroma_NP = (rgb_N3HW.amax(dim=1) - rgb_N3HW.amin(dim=1)).flatten(1)
    dx_N = y_NHW.diff(dim=2).abs().mean(dim=(1, 2))
    dy_N = y_NHW.diff(dim=1).abs().mean(dim=(1, 2))
    statistics = [
        *rgb_N3HW.mean(dim=(2, 3)).unbind(1),
        *_std(rgb_N3HW.flatten(2)).unbind(1),
        (dx_N + _FLOOR).log(),
        (dy_N + _FLOOR).log(),
        (_std(_laplacian(y_NHW).flatten(1)).square() + _FLOOR**2).log(),
        _high_frequency_share(y_NHW).log(),
        chroma_NP.mean(dim=1),
        _std(chroma_NP),
    ]
    return torch.stack(statistics, dim=1)


def _std(x_NP: Tensor) -> Tensor:
    """Standard deviation over the last axis, in two sweeps: torch's own takes three times as long."""
    return (x_NP - x_NP.mean(dim=-1, keepdim=True)).square_().mean(dim=-1).sqrt()


def _laplacian(y_NHW: Tensor) -> Tensor:
    inner = y_NHW[:, 1:-1, 1:-1]
    return y_NHW[:, :-2, 1:-1] + y_NHW[:, 2:, 1:-1] + y_NHW[:, 1:-1, :-2] + y_NHW[:, 1:-1, 2:] - 4 * inner


def _high_frequency_share(y_NHW: Tensor) -> Tensor:
    """From half of the spectrum, the rest being its mirror image: columns between 0 and Nyquist count twice."""
    height, width = y_NHW.shape[1:]
    half_NHV = torch.view_as_real(torch.fft.rfft2(y_NHW - y_NHW.mean(dim=(1, 2), keepdim=True)))
    power_NHV = half_NHV.square().sum(dim=3)
    power_NHV[:, :, 1 : (width + 1) // 2] *= 2
    fy_H = torch.fft.fftfreq(height, dtype=torch.float64, device=y_NHW.device)
    fx_V = torch.fft.rfftfreq(width, dtype=torch.float64, device=y_NHW.device)
    high_HV = (fy_H[:, None].square() + fx_V[None, :].square()).sqrt() > 0.25
    floor = (height * width) ** 2 * _FLOOR**2
    return (power_NHV[:, high_HV].sum(dim=1) + floor) / (power_NHV.sum(dim=(1, 2)) + floor)


@dataclass(frozen=True, eq=False)
class ShortcutProbe:
    """The fitted probe: statistics of ID training images, one mean, one covariance."""

    gaussian: TiedGaussian
    n_fit: int

    @classmethod
    def fit(cls, train_NS: np.ndarray) -> ShortcutProbe:
        """Fit on the statistics (N, 12) of ID training images."""
        if len(train_NS) < MIN_FIT:
            raise ValueError(f"the probe needs at least {MIN_FIT} training images, there are {len(train_NS)}")
        return cls(fit_tied(train_NS, np.zeros(len(train_NS), dtype=np.int64), _SHRINKAGE), len(train_NS))

    def __call__(self, statistics_NS: np.ndarray) -> Scores:
        """Squared distance of each image to the training images."""
        return Scores(PROBE, self.gaussian.squared_distances(statistics_NS)[:, 0])


def describe(bands: Sequence[str]) -> str:
    """Say which bands stand for red, green and blue, for a report."""
    return ", ".join(f"{role} = {bands[at]}" for role, at in zip("RGB", display_positions(bands), strict=True))
