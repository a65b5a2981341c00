"""The contract of a source: what a data set on disk must be able to say about itself.

A source lists its patches (cheaply, without decoding pixels), states facts that hold for all of them, and reads
one patch at a time. `read` needs nothing but the source and a reference, so that it can run in worker processes.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_sat.data.spec import DataSpec, FractionsSpec, Level
from ssl_sat.data.splits import Assigned, assign_fractions, subset
from ssl_sat.spec import MissingInput, UserError

LabelKind = Literal["none", "single", "multi"]


class UnreadablePatch(Exception):
    """A patch that cannot be used as it is; the text is the reason that quarantine.csv shows."""


class OtherSize(UserError):
    """An image of another size than the first where no size is set: a pack is not made, a stream lists the image."""


@dataclass(frozen=True)
class PatchRef:
    """One patch: `path` is its file or folder relative to the source's root; `labels` are class names.

    `problem` is a defect found while listing (labels that cannot be read); such a patch is quarantined unread.
    `baseline` is the processing baseline in the product's name (N0205), where there is one.
    """

    id: str
    path: str
    split: str = ""
    labels: tuple[str, ...] = ()
    place: str | None = None
    time: str | None = None
    problem: str | None = None
    country: str | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class Group:
    """Bands of one resolution; `gsd_m` is None where it is not known."""

    bands: tuple[str, ...]
    height: int
    width: int
    gsd_m: float | None


@dataclass(frozen=True)
class Facts:
    """What holds for every patch of a source. Reflectance or display value = (dn - offset) / scale.

    `decode` names what happens between the decoded pixels of the file and the record. `offset_basis` says in words
    where `offset` comes from; `baselines` are the processing baselines that the patches' products name.
    """

    sensor: str
    level: Level
    groups: tuple[Group, ...]
    dtype: Literal["uint8", "uint16", "float32"]
    scale: float
    offset: float
    decode: Mapping[str, str | int | None]
    synthetic: bool = False
    offset_basis: str = "stated by the source"
    baselines: tuple[str, ...] = ()

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of all bands, group after group."""
        return tuple(name for group in self.groups for name in group.bands)


def decode_digest(decode: Mapping[str, str | int | None]) -> str:
    """The sha256 by which two data sets are said to have come the same way from file to record."""
    return hashlib.sha256(json.dumps(dict(decode), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Listing:
    """All patches to pack, sorted by id, with their splits; `absent` were named by a list but are not on disk.

    `unlisted` are on disk but in no list, and left out; `filtered` were in a split but the spec leaves them out (by
    snow, country, class, ...). `split_files` maps the lists that were read to sha256.
    """

    refs: tuple[PatchRef, ...]
    classes: tuple[str, ...]
    label_kind: LabelKind
    absent: int = 0
    unlisted: int = 0
    filtered: int = 0
    split_files: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Source(abc.ABC):
    """Base of every source. Subclasses find patches and read one; splits and subsets are shared here."""

    reads_with: tuple[str, ...] = ("root", "facts")  # of what is worked out on demand, that which `read` needs
    needs = "a folder of patches"  # what `root` must be
    obtain = ""  # fetching by hand what `ssl_sat.download` knows; both are shown when it is missing

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process needs to read patches: no listing goes with it."""
        on_demand = {name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)}
        return {name: value for name, value in vars(self).items() if name not in on_demand - {*self.reads_with}}

    def forget_listing(self) -> None:
        """Free the memory of the listing; it would be made again on demand."""
        self.__dict__ = self.__getstate__()

    @cached_property
    def root(self) -> Path:
        """The folder of the data set; MissingInput when it is not set or not there."""
        if self.spec.root is None:
            raise MissingInput(f"{self.spec.name}: data.root is not set. {self._how_to_get()}")
        root = Path(self.spec.root).expanduser()
        if not root.is_dir():
            raise MissingInput(f"{self.spec.name}: no folder '{root}' (data.root). {self._how_to_get()}")
        return root

    def _how_to_get(self) -> str:
        by_hand = f"python -m ssl_sat.download {self.spec.name}\n  by hand: {self.obtain}"
        fetch = f"\n  get it:  {by_hand}" if self.obtain else ""
        pack = f"python -m ssl_sat.pack data={self.spec.name} data.root=<that folder>"
        return f"It must be {self.needs}.{fetch}\n  pack it: {pack}"

    @abc.abstractmethod
    def inventory(self) -> list[tuple[str, int]]:
        """Ids on disk with the size in bytes of single-file patches (0 for folders). Cheap: no file is opened."""

    @abc.abstractmethod
    def find(self) -> list[PatchRef]:
        """All patches on disk with labels, place and time; the split is '' unless the data set itself states it."""

    @abc.abstractmethod
    def assign(self, refs: list[PatchRef]) -> Assigned:
        """Say which split every patch is in."""

    @property
    @abc.abstractmethod
    def facts(self) -> Facts:
        """Sensor, bands, sizes, units: the same for all patches."""

    @abc.abstractmethod
    def read(self, ref: PatchRef) -> list[np.ndarray]:
        """Return one array (C_g, H_g, W_g) per resolution group, or raise UnreadablePatch with the reason."""

    def passed_over(self) -> list[tuple[str, str]]:
        """Files that look like patches and are of a kind that is not read: (path, reason). A pack leaves them out."""
        return []

    @property
    def label_kind(self) -> LabelKind:
        """What the labels of a patch are: none, one class, or any number of classes."""
        return "single"

    def split_files(self) -> dict[str, Path]:
        """The files that decide splits or labels, by a name that does not depend on where they lie."""
        return {}

    @cached_property
    def found(self) -> list[PatchRef]:
        """`find()`, checked: ids are unique and there is something."""
        refs = sorted(self.find(), key=lambda ref: ref.id)
        for one, other in itertools.pairwise(refs):
            if one.id == other.id:
                raise UserError(f"two patches are called '{one.id}' in {self.root}: {one.path} and {other.path}. "
                                "Names are identities here: rename or remove one of them.")  # fmt: skip
        if not refs:
            raise UserError(f"{self.spec.name}: no patches in '{self.root}'. It must be {self.needs}.")
        return refs

    def listing(self) -> Listing:
        """All patches to pack with their splits, classes and counts of what was left out; made once."""
        return self._listing

    @cached_property
    def _listing(self) -> Listing:
        refs = self.found
        assigned = self.assign(refs)
        placed = [
            dataclasses.replace(ref, split=assigned.split_of[ref.id]) for ref in refs if ref.id in assigned.split_of
        ]
        kept = self.choose(placed)
        filtered = len(placed) - len(kept)
        if not kept:
            left = f"; of the {len(placed)} that are, the filters leave none" if placed else ""
            what = "but none of them is in a split" if not placed else "but none is kept"
            raise UserError(f"{self.spec.name}: {len(refs)} patches in '{self.root}', {what}{left}.")
        if self.spec.max_patches is not None:
            kept = subset(kept, lambda ref: "", self.spec.max_patches, self.spec.subset_seed)
        return Listing(
            refs=tuple(kept),
            classes=self.class_names(kept),
            label_kind=self.label_kind,
            absent=assigned.absent,
            unlisted=len(refs) - len(placed),
            filtered=filtered,
            split_files=assigned.files,
        )

    def choose(self, refs: list[PatchRef]) -> list[PatchRef]:
        """Keep the patches that the spec asks for."""
        return refs

    def class_names(self, refs: Iterable[PatchRef]) -> tuple[str, ...]:
        """Names of the classes in the order of their labels: sorted."""
        return tuple(sorted({name for ref in refs for name in ref.labels}))


def by_fractions_or_none(spec: FractionsSpec, split: str, refs: list[PatchRef]) -> Assigned:
    """The splits `fractions` (stratified by label where there is one) and `none` (all in `split_name`)."""
    if split == "fractions":
        class_of = {ref.id: ref.labels[0] if len(ref.labels) == 1 else "" for ref in refs}
        return assign_fractions(class_of, spec.val_fraction, spec.test_fraction, spec.split_seed)
    return Assigned({ref.id: spec.split_name for ref in refs})


def descend(root: Path, *names: str) -> Path:
    """Return the innermost of the folders `root/a`, `root/a/b`, ... that the data set's archive may have put first."""
    for name in names:
        if (root / name).is_dir():
            root = root / name
    return root
