"""Any folder of 8-bit RGB images (JPEG, PNG, TIFF, BMP, WebP)."""

from __future__ import annotations

from typing_extensions import override

from ssl_sat.data.sources.images import ImageSource
from ssl_sat.data.spec import ImageFolderSpec


def build(spec: ImageFolderSpec) -> ImageFolder:
    """The source of a folder of images."""
    return ImageFolder(spec)


class ImageFolder(ImageSource):
    """`[train|val|test/]<class>/.../<image>`; ids are paths without suffix. Grey becomes RGB, alpha goes."""

    needs = "a folder with one folder of images per class (jpg, png, tif, bmp, webp)"
    spec: ImageFolderSpec

    def __init__(self, spec: ImageFolderSpec) -> None:
        super().__init__(spec)
        self.sensor, self.bands, self.native_gsd_m = spec.sensor, spec.bands, spec.gsd_m

    @override
    def _id(self, path: str) -> str:
        return path if self.spec.suffix_in_id else super()._id(path)
