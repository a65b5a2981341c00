"""8-bit RGB images: decode, resize, recompress; the same path for every image source, so that its hash can be compared.

Whether two sets were decoded alike decides what an out-of-distribution score between them means: a JPEG at its own
size against a TIFF shrunk from 256 px can be told apart without looking at what is in the picture.
"""

from __future__ import annotations

import io
import os
from functools import cached_property

import numpy as np
from PIL import Image, UnidentifiedImageError
from typing_extensions import override

from ssl_sat.data.sources.contract import Facts, Group, OtherSize, PatchRef, UnreadablePatch
from ssl_sat.data.sources.folders import FolderSource, files_below
from ssl_sat.data.spec import ImageSpec
from ssl_sat.spec import UserError

_FAMILY = {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",), ".tif": ("TIFF",), ".tiff": ("TIFF",),
           ".bmp": ("BMP",), ".webp": ("WEBP",)}  # fmt: skip
_OTHER = (".gif", ".jp2", ".j2k", ".jxl", ".heic", ".heif", ".avif", ".ppm", ".pgm", ".tga", ".ico")  # not read
_TO_RGB = {"RGB", "L", "P", "RGBA", "LA"}  # 8-bit modes whose conversion to RGB loses at most an alpha channel


def decode(path: str) -> Image.Image:
    """Open and fully decode an image as 8-bit RGB; UnreadablePatch when it is broken or is not what its name says."""
    name, suffix = os.path.basename(path), os.path.splitext(path)[1].lower()
    try:
        with open(path, "rb") as file:  # read at once: Pillow would fetch a JPEG in dozens of small pieces
            data = file.read()
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in _FAMILY[suffix]:
                raise UnreadablePatch(f"{name}: holds {image.format}, not {_FAMILY[suffix][0]}")
            if image.mode not in _TO_RGB:
                raise UnreadablePatch(f"{name}: mode {image.mode} is not 8-bit RGB or grey")
            image.load()
            return image.convert("RGB")
    except (UnreadablePatch, MemoryError):
        raise
    except UnidentifiedImageError:  # its own words hold an address in memory, another in every run
        raise UnreadablePatch(f"{name}: cannot identify image file") from None
    except Exception as error:  # decoders meet broken files with almost any exception
        raise UnreadablePatch(f"{name}: {error}" if str(error) else f"{name}: {type(error).__name__}") from None


def jpeg75(image: Image.Image) -> Image.Image:
    """Encode as JPEG at quality 75 with 4:2:0 chroma and decode again."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75, subsampling="4:2:0")
    return Image.open(buffer).convert("RGB")


class ImageSource(FolderSource):
    """Base of the RGB sources. Values are display values dn / 255 in the order red, green, blue."""

    reads_with = ("root", "facts", "_size")
    suffixes = tuple(_FAMILY)
    spec: ImageSpec
    sensor: str = "unknown"
    bands: tuple[str, str, str] = ("red", "green", "blue")
    native_px: int | None = None  # the published size, for the ground sampling distance after a resize
    native_gsd_m: float | None = None
    fixed_size = False  # True: an image of another size than native_px is not of this data set

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Height and width of the records."""
        if self.spec.size_px is not None:
            return self.spec.size_px, self.spec.size_px
        for ref in self.found:
            try:
                image = decode(os.path.join(self.root, ref.path))
            except UnreadablePatch:
                continue
            return image.height, image.width
        raise UserError(f"{self.spec.name}: none of the {len(self.found)} images in '{self.root}' can be read.")

    @cached_property
    @override
    def facts(self) -> Facts:
        height, width = self._size
        gsd_m = self.native_gsd_m
        if gsd_m is not None and self.native_px is not None:
            gsd_m = gsd_m * self.native_px / width
        decode_path: dict[str, str | int | None] = {
            "to_px": self.spec.size_px,
            "filter": "bilinear-antialias" if self.spec.size_px else "none",
            "recompress": self.spec.recompress,
            "mode": "RGB8",
        }
        return Facts(
            self.sensor, "display", (Group(self.bands, height, width, gsd_m),), "uint8", 255.0, 0.0, decode_path,
            offset_basis="display values have none",
        )  # fmt: skip

    @override
    def passed_over(self) -> list[tuple[str, str]]:
        kinds = "/".join(name.lstrip(".") for name in _FAMILY)
        return [
            (path, f"{os.path.splitext(path)[1]} images are not read (but {kinds})")
            for path, _ in files_below(self.base, _OTHER)
        ]

    @override
    def read(self, ref: PatchRef) -> list[np.ndarray]:
        image = decode(os.path.join(self.root, ref.path))
        if self.fixed_size and image.size != (self.native_px, self.native_px):
            raise UnreadablePatch(f"{image.width}x{image.height} px, not {self.native_px}x{self.native_px}")
        height, width = self._size
        if self.spec.size_px is not None:
            image = image.resize((width, height), Image.Resampling.BILINEAR)  # Pillow widens the filter: antialiased
        elif image.size != (width, height):
            raise OtherSize(
                f"{self.spec.name}: images of several sizes in '{self.root}': {ref.path} is "
                f"{image.width}x{image.height}, the first is {width}x{height}. Set data.size_px to make them one size."
            )
        if self.spec.recompress == "jpeg75":
            image = jpeg75(image)
        return [np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))]
