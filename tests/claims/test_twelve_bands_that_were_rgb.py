"""Published mistake: '12 spectral bands', which were the three of an RGB composite."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes.checkpoints import torchvision_resnet18
from safetensors.torch import save_file

from ssl_sat.bands import S2_L2A
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.foreign import load_foreign
from ssl_sat.pack import PACK
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.training.model_io import load_card


def scenes(count: int, bands: int) -> np.ndarray:
    """Digital numbers (N, H, W, C): a common brightness and what is each band's own."""
    rng = np.random.default_rng(0)
    brightness = rng.uniform(300, 3000, (count, 16, 16, 1))
    return (brightness * rng.uniform(0.5, 1.0, (count, 16, 16, bands))).astype(np.uint16)


def packed(folder: Path, images: np.ndarray, make):
    (folder / "raw").mkdir(parents=True)
    for number, image in enumerate(images):
        np.save(folder / "raw" / f"p{number:02d}.npy", image)
    return make("pack", "data=npy", f"data.root={folder / 'raw'}", f"outputs={folder}", "workers=1")


def test_twelve_channels_of_rgb_hold_three() -> None:
    tiled = np.tile(scenes(20, 3), 4).reshape(-1, 12).astype(np.float64)
    real = scenes(20, 12).reshape(-1, 12).astype(np.float64)
    assert tiled.shape == real.shape  # a count of channels says nothing
    assert np.linalg.matrix_rank(np.cov(tiled.T)) == 3 and np.linalg.matrix_rank(np.cov(real.T)) == 12


def test_rgb_under_twelve_names_cannot_be_packed(tmp_path: Path, make) -> None:
    with pytest.raises(UserError, match=r"none of the 20 patches .*shape \(3, 16, 16\), not \(12, H, W\)"):
        packed(tmp_path, scenes(20, 3), make)


def test_rgb_tiled_over_twelve_names_is_doubted_by_its_pixels(tmp_path: Path, make) -> None:
    pack = packed(tmp_path, np.tile(scenes(20, 3), 4), make)
    doubt = next(line for line in PACK.headline(pack.metrics) if line.startswith("doubt: the order of the bands"))
    assert "B02 goes with B05 (r 1.000) rather than with" in doubt


def test_bands_are_names_from_the_data_to_the_table(chain: SimpleNamespace, make) -> None:
    assert load_card(chain.pretrained.path).bands == load_card(chain.tuned.path).bands == ("red", "green", "blue")
    for artifact in (chain.pretrained, chain.tuned, chain.evaluated):
        assert artifact.metrics["bands"] == "red,green,blue"
    run = ("encoder=cnn", "init=scratch", "image_size=16", "phases=full", "epochs=1", "batch_size=8")
    with pytest.raises(UserError, match=r"B01.*red, green, blue"):
        make("finetune", *chain.given, *run, f"bands=[{','.join(S2_L2A)}]")


def test_filters_of_three_channels_are_not_those_of_twelve_bands(tmp_path: Path) -> None:
    save_file(torchvision_resnet18(3).state_dict(), tmp_path / "rgb.safetensors")
    with pytest.raises(ConfigError, match=r"its first filters read 3 channels; init_bands names 12"):
        load_foreign(
            ENCODERS.parse({"name": "resnet18"}), tmp_path / "rgb.safetensors", bands=S2_L2A, image_size=32, seed=0,
            bands_from=S2_L2A,
        )  # fmt: skip
