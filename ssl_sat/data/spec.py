"""What a data set is and how it is split: one spec per source. Torch-free.

Paths (`root`, `splits_dir`, `metadata_dir`) are runtime fields: two machines that keep the same data in
different folders make the same pack. What lies in those folders enters the fingerprint through
`ssl_sat.data.packing.source_digest`.
"""

from __future__ import annotations

import re
from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from ssl_sat.bands import AERIAL_RGB, S2_L2A, band
from ssl_sat.spec import Spec, later, runtime

Level = Literal["L1C", "L2A", "display"]
Country = Literal[
    "Austria",
    "Belgium",
    "Finland",
    "Ireland",
    "Kosovo",
    "Lithuania",
    "Luxembourg",
    "Portugal",
    "Serbia",
    "Switzerland",
]  # as metadata.parquet of BigEarthNet v2 spells them
SCENE_CLASSES = ("built_up", "cloud", "crops", "forest", "soil", "water")


class DataSpec(Spec):
    """Fields that every source has.

    `max_patches` keeps a seeded subset (of `subset_seed`), shared over the splits in proportion to their size.
    A share of unreadable patches above `max_quarantined` stops the packing.
    """

    name: str
    root: str | None = runtime(None)
    max_patches: int | None = Field(default=None, ge=1)
    subset_seed: int = 0
    max_quarantined: float = Field(default=0.05, ge=0.0, le=1.0)


class FractionsSpec(DataSpec):
    """Fields of the seeded, stratified split `fractions`, and the name of the one split of the scheme `none`."""

    split_name: str = Field(default="train", pattern=r"^[a-z][a-z0-9_]*$")
    val_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    test_fraction: float = Field(default=0.2, ge=0.0, lt=1.0)
    split_seed: int = 0

    @model_validator(mode="after")
    def _leaves_a_training_split(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                f"val_fraction + test_fraction = {self.val_fraction + self.test_fraction:g} leaves no train"
            )
        return self


class ClassesSpec(FractionsSpec):
    """Fields of sources with one class per patch: keep only `classes`, at most `max_per_class` of each (seeded)."""

    classes: tuple[str, ...] | None = None
    max_per_class: int | None = Field(default=None, ge=1)


class LabelledSpec(ClassesSpec):
    """Fields of a folder of patches whose labels and splits may lie in folders, in a CSV or in the patches' names.

    labels=csv reads `labels_file`: `file_column` holds paths below the root, or bare names, with or without suffix;
    `label_column` the class, or, as a list of columns, a 1 for each class that is present. labels=pattern searches each
    path (without suffix) for `pattern`, a regular expression with a group `(?P<label>...)`. With `label_separator` a
    patch has any number of labels. split=csv takes `split_column`, split=pattern the group `(?P<split>...)`.
    missing_splits=from_train: where the data states no val (test), `val_fraction` (`test_fraction`) of train is taken,
    seeded and stratified.
    """

    labels_file: str | None = runtime(None)
    file_column: str = later("file")
    label_column: str | tuple[str, ...] = later("label")
    split_column: str = later("split")
    label_separator: str | None = later(None, min_length=1)
    pattern: str | None = later(None)
    missing_splits: Literal["none", "from_train"] = later("none")

    @field_validator("pattern")
    @classmethod
    def _names_a_label(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise ValueError(f"no regular expression: {error}") from None
            if "label" not in groups:
                raise ValueError("a group (?P<label>...) is needed, as in '(?P<label>[A-Za-z]+)_[0-9]+$'")
        return pattern

    @model_validator(mode="after")
    def _labels_and_split_go_together(self) -> Self:
        labels, split = getattr(self, "labels", None), getattr(self, "split", None)
        if labels == "pattern" and self.pattern is None:
            raise ValueError("labels=pattern needs a pattern, as in '(?P<label>[A-Za-z]+)_[0-9]+$'")
        if split in ("csv", "pattern") and labels != split:
            raise ValueError(f"split={split} is read where the labels are: set labels={split}")
        if split == "pattern" and "split" not in re.compile(self.pattern or "").groupindex:
            raise ValueError("split=pattern needs a group (?P<split>...) in the pattern")
        return self

    @property
    def is_multilabel(self) -> bool:
        """Whether a patch may have several labels, or none."""
        several = self.label_separator is not None or isinstance(self.label_column, tuple)
        return several and getattr(self, "labels", None) in ("csv", "pattern")


class ImageSpec(ClassesSpec):
    """Fields of 8-bit RGB sources: resize to `size_px` (antialiased bilinear), the same codec for all on request.

    `size_px: null` keeps the images' own size, which then must be one for all.
    """

    size_px: int | None = Field(default=64, ge=8, le=4096)
    recompress: Literal["none", "jpeg75"] = "none"


class BigEarthNetSpec(FractionsSpec):
    """Fields of both versions. `drop` leaves out patches by name, under every split scheme.

    snow, cloud: the published lists; unlabelled: patches without any label in the chosen nomenclature.
    """

    split: Literal["official", "fractions", "none"] = "official"
    drop: tuple[Literal["snow", "cloud", "unlabelled"], ...] = ()
    metadata_dir: str | None = runtime(None)
    allow_absent: bool = False


class BigEarthNetV1Spec(BigEarthNetSpec):
    """BigEarthNet-S2 v1.0; `official` reads train/val/test.csv from `metadata_dir` (default: beside the patches).

    labels: 43 CORINE level-3 classes as the JSON files name them, or the 19 of Sumbul et al. 2021.
    """

    name: Literal["bigearthnet_v1"] = "bigearthnet_v1"
    labels: Literal[43, 19] = 43


class BigEarthNetV2Spec(BigEarthNetSpec):
    """BigEarthNet v2.0 (reBEN), Sentinel-2 part; `official` reads metadata.parquet, which also holds the labels.

    labels: 19 as in metadata.parquet, or 43 from the JSON files of BigEarthNet v1 below `v1_root`.
    countries: keep only these.
    """

    name: Literal["bigearthnet_v2"] = "bigearthnet_v2"
    labels: Literal[19, 43] = 19
    countries: tuple[Country, ...] | None = None
    v1_root: str | None = runtime(None)

    @field_validator("countries")
    @classmethod
    def _at_least_one(cls, countries: tuple[Country, ...] | None) -> tuple[Country, ...] | None:
        if countries is None:
            return None
        if not countries:
            raise ValueError(f"name at least one of {', '.join(get_args(Country))}; null keeps all")
        return tuple(sorted(set(countries)))


class EurosatRgbSpec(ImageSpec):
    """EuroSAT RGB (display JPEGs); `random` and `spatial` are the published lists, found in `splits_dir`."""

    name: Literal["eurosat_rgb"] = "eurosat_rgb"
    split: Literal["random", "spatial", "fractions", "none"] = "random"
    splits_dir: str | None = runtime(None)
    allow_absent: bool = False


class EurosatMsSpec(ClassesSpec):
    """EuroSAT, 13 bands, L1C; the same published lists as for EuroSAT RGB."""

    name: Literal["eurosat_ms"] = "eurosat_ms"
    split: Literal["random", "spatial", "fractions", "none"] = "random"
    splits_dir: str | None = runtime(None)
    allow_absent: bool = False


class UcMercedSpec(ImageSpec):
    """UC Merced Land Use (aerial, 0.3 m)."""

    name: Literal["ucmerced"] = "ucmerced"
    split: Literal["folders", "fractions", "none"] = "none"
    split_name: str = Field(default="test", pattern=r"^[a-z][a-z0-9_]*$")


class ImageFolderSpec(LabelledSpec, ImageSpec):
    """Any folder of RGB images: a folder a class, optionally below train/val/test, or labels by CSV or file name.

    suffix_in_id: a.png and a.jpg are two images then, as `embed` and `score` take them, and not one name given twice.
    """

    name: Literal["imagefolder"] = "imagefolder"
    split: Literal["folders", "fractions", "csv", "pattern", "none"] = "none"
    labels: Literal["folder", "csv", "pattern", "none"] = "folder"
    bands: tuple[str, str, str] = AERIAL_RGB  # type: ignore[assignment]
    sensor: str = "unknown"
    gsd_m: float | None = Field(default=None, gt=0)
    suffix_in_id: bool = later(False)


class ArraySpec(LabelledSpec):
    """Fields of sources whose files do not say what they hold: bands in file order, level, scale and offset.

    `scale: null` is 10000 for uint16, 255 for uint8 and 1 for float32. Reflectance = (dn - offset) / scale.
    `patch_px: null` takes the size of the first readable patch (by id); others are quarantined.
    """

    bands: tuple[str, ...] = S2_L2A
    sensor: str = "Sentinel-2"
    level: Level = "L2A"
    scale: float | None = Field(default=None, gt=0)
    offset: float = 0.0
    gsd_m: float | None = Field(default=None, gt=0)
    patch_px: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _bands_are_known(self) -> Self:
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands must be named once each, in file order: {', '.join(self.bands) or 'none given'}")
        if self.sensor == "Sentinel-2":
            for name in self.bands:
                band(name)
        return self


class NpySpec(ArraySpec):
    """A folder of .npy patches, (C, H, W) or (H, W, C)."""

    name: Literal["npy"] = "npy"
    split: Literal["folders", "fractions", "csv", "pattern", "none"] = "none"
    labels: Literal["folder", "csv", "pattern", "none"] = "none"
    layout: Literal["channels_first", "channels_last"] = "channels_last"


class GeoTiffSpec(ArraySpec):
    """A folder of multi-band GeoTIFF patches; `meta` takes labels, ids and splits from a meta.json beside each."""

    name: Literal["geotiff"] = "geotiff"
    split: Literal["folders", "fractions", "csv", "pattern", "meta", "none"] = "none"
    labels: Literal["folder", "csv", "pattern", "meta", "none"] = "none"

    @model_validator(mode="after")
    def _meta_goes_together(self) -> Self:
        if self.split == "meta" and self.labels != "meta":
            raise ValueError("split=meta reads the meta.json files, which hold the labels too: set labels=meta")
        return self


class ScenesSpec(FractionsSpec):
    """Synthetic Sentinel-2 patches in BigEarthNet v1's layout; `cloud` is left out by default: it is the OOD class."""

    name: Literal["scenes"] = "scenes"
    split: Literal["fractions", "none"] = "fractions"
    classes: tuple[Literal["built_up", "cloud", "crops", "forest", "soil", "water"], ...] = (
        "built_up",
        "crops",
        "forest",
        "soil",
        "water",
    )
    patches_per_class: int = Field(default=120, ge=1, le=100_000)
    seed: int = 0

    @model_validator(mode="after")
    def _classes_named_once(self) -> Self:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(
                f"classes must be named once each, at least one: {', '.join(self.classes) or 'none given'}"
            )
        return self
