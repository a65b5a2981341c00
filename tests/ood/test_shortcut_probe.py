"""The twelve statistics against plain formulas, and what the probe does and does not see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import laplace

from ssl_sat.data.sources.images import jpeg75
from ssl_sat.ood.metrics import auroc
from ssl_sat.ood.shortcut_probe import STATISTICS, ShortcutProbe, describe, display_positions, image_statistics

RGB = ("red", "green", "blue")


def images(count: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_statistics_equal_plain_formulas() -> None:
    x_NCHW = images(3)
    found = dict(zip(STATISTICS, image_statistics(x_NCHW, RGB).T.numpy(), strict=True))
    assert len(STATISTICS) == 12
    for at, image in enumerate(x_NCHW.numpy()):
        y_HW = image.mean(0)
        chroma = image.max(0) - image.min(0)
        power = np.abs(np.fft.fft2(y_HW - y_HW.mean())) ** 2
        f = np.fft.fftfreq(16)
        high = np.hypot(f[:, None], f[None, :]) > 0.25
        expected = {
            "mean_green": image[1].mean(),
            "std_blue": image[2].std(),
            "log_gradient_x": np.log(np.abs(np.diff(y_HW, axis=1)).mean() + 1e-4),
            "log_gradient_y": np.log(np.abs(np.diff(y_HW, axis=0)).mean() + 1e-4),
            "log_laplacian_variance": np.log(laplace(y_HW)[1:-1, 1:-1].var() + 1e-8),
            "log_high_frequency_share": np.log(power[high].sum() / power.sum()),
            "mean_chroma": chroma.mean(),
            "std_chroma": chroma.std(),
        }
        for name, value in expected.items():
            assert found[name][at] == pytest.approx(value, rel=1e-4), name


def test_bands_are_found_by_common_name() -> None:
    assert display_positions(("B02", "B03", "B04", "B08")) == (2, 1, 0)
    assert display_positions(("B05", "B08", "B11", "B12")) == (0, 2, 3)
    assert describe(("B02", "B03", "B04")) == "R = B04, G = B03, B = B02"
    x_NCHW = images(2)
    turned = image_statistics(x_NCHW.flip(1), ("B02", "B03", "B04"))
    torch.testing.assert_close(turned, image_statistics(x_NCHW, ("B04", "B03", "B02")))


def test_constant_images_stay_finite_and_integers_are_refused() -> None:
    assert bool(torch.isfinite(image_statistics(torch.zeros(2, 3, 8, 8), RGB)).all())
    with pytest.raises(ValueError, match="floating point"):
        image_statistics(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), RGB)
    with pytest.raises(ValueError, match=r"\(N, 3,"):
        image_statistics(torch.zeros(2, 4, 8, 8), RGB)


def test_blur_is_seen_and_a_second_draw_is_not() -> None:
    train, same, other = (image_statistics(images(300, seed), RGB).numpy() for seed in (0, 1, 2))
    blurred = torch.nn.functional.avg_pool2d(images(300, 2), 3, stride=1, padding=1)
    probe = ShortcutProbe.fit(train)
    assert probe.n_fit == 300
    assert auroc(probe(same), probe(other)) == pytest.approx(0.5, abs=0.07)
    assert auroc(probe(same), probe(image_statistics(blurred, RGB).numpy())) == 1.0
    with pytest.raises(ValueError, match="at least 120"):
        ShortcutProbe.fit(train[:100])


def _decode(path: Path, size: int, jpeg: bool) -> np.ndarray:
    image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(jpeg75(image) if jpeg else image)


def test_real_uc_merced_is_told_by_how_it_came_to_its_size(unzipped: Callable[[str], Path]) -> None:
    """The more the decode path leaves of it, the better the probe does: 224 px over 64 px over 64 px and one codec."""
    paths = sorted(unzipped("EuroSAT_RGB.zip").rglob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(paths))
    fit, inside = ([paths[at] for at in order[part]] for part in (slice(800), slice(800, 1400)))
    outside = sorted(unzipped("UCMerced_LandUse_sample.zip").rglob("*.tif"))
    areas = []
    for size, jpeg in ((224, False), (64, False), (64, True)):

        def scored(files: list[Path], size: int = size, jpeg: bool = jpeg) -> np.ndarray:
            parts = [np.stack([_decode(path, size, jpeg) for path in files[at : at + 100]]) for at in
                     range(0, len(files), 100)]  # fmt: skip
            tensors = [torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255 for part in parts]
            return np.concatenate([image_statistics(x, RGB).numpy() for x in tensors])

        probe = ShortcutProbe.fit(scored(fit))
        areas.append(auroc(probe(scored(inside)), probe(scored(outside))))
    assert areas[0] > 0.99 and 0.85 < areas[1] < 0.96 and areas[0] > areas[1] > areas[2] > 0.8
