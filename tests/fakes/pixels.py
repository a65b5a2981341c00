"""Deterministic pixels for the fakes: every file gets its own generator, keyed by its name."""

import hashlib

import numpy as np


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def uint16(name: str, shape: tuple[int, ...], low: int = 100, high: int = 4000) -> np.ndarray:
    return generator(name).integers(low, high, shape, dtype=np.uint16)


def rgb(name: str, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: a smooth gradient of the name's own colours and some noise, so that JPEG is not absurd."""
    rng = generator(name)
    corners = rng.integers(20, 235, (2, 2, 3)).astype(float)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top, bottom = corners[0, 0] * (1 - x) + corners[0, 1] * x, corners[1, 0] * (1 - x) + corners[1, 1] * x
    smooth = top * (1 - y) + bottom * y
    return np.clip(smooth + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
