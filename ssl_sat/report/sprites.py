"""Thumbnails of many patches as few WebP sheets: 5,000 pictures of 64 px in some 5 MB, decoded a sheet at a time.

Patch n lies on sheet n // PER_SHEET, at row and column (n % PER_SHEET) // COLUMNS and n % COLUMNS.
"""

# N patches, S pixels of a side, M patches of a sheet

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLUMNS = 16
PER_SHEET = COLUMNS * COLUMNS
CELL_PX = 64
QUALITIES = (72, 55, 38, 22)  # tried in this order until the sheets fit


def write_sheets(folder: Path, pictures: Iterable[NDArray[np.float32]], cell_px: int) -> int:
    """Write `thumbnails-NNN.webp` from blocks of pictures (M, S, S, 3) in [0, 1]; return how many sheets."""
    count = 0
    for count, cells in enumerate(_blocks(pictures), 1):
        (folder / f"thumbnails-{count - 1:03d}.webp").write_bytes(_encoded(_sheet(cells, cell_px), QUALITIES[0]))
    return count


def _blocks(pictures: Iterable[NDArray[np.float32]]) -> Iterator[list[NDArray[np.float32]]]:
    """The same pictures, regrouped into as many as a sheet holds; sizes may differ from block to block."""
    waiting: list[NDArray[np.float32]] = []
    for block in pictures:
        for picture in block:
            waiting.append(picture)
            if len(waiting) == PER_SHEET:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def _sheet(cells: Sequence[NDArray[np.float32]], cell_px: int) -> NDArray[np.uint8]:
    from PIL import Image

    rows = -(-len(cells) // COLUMNS)
    sheet = np.full((rows * cell_px, COLUMNS * cell_px, 3), 255, np.uint8)
    for at, picture in enumerate(cells):
        pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
        if pixels.shape[0] != cell_px:
            larger = pixels.shape[0] < cell_px
            image = Image.fromarray(pixels).resize(
                (cell_px, cell_px), Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
            )
            pixels = np.asarray(image)
        top, left = at // COLUMNS * cell_px, at % COLUMNS * cell_px
        sheet[top : top + cell_px, left : left + cell_px] = pixels
    return sheet


def _encoded(sheet: NDArray[np.uint8], quality: int) -> bytes:
    from PIL import Image

    written = BytesIO()
    Image.fromarray(sheet).save(written, "WEBP", quality=quality, method=4)
    return written.getvalue()


def smaller(sheets: Sequence[bytes], most: int) -> tuple[list[bytes], bool]:
    """The sheets as they are, or encoded again at the best quality at which they take `most` bytes.

    Returns False beside the smallest there are where even those take more.
    """
    if sum(map(len, sheets)) <= most:
        return list(sheets), True
    from PIL import Image

    again = list(sheets)
    for quality in QUALITIES[1:]:
        again = [_encoded(np.asarray(Image.open(BytesIO(sheet)).convert("RGB")), quality) for sheet in sheets]
        if sum(map(len, again)) <= most:
            return again, True
    return again, False
