"""Sources with one file per patch, found below class folders, split folders, or lying flat with labels elsewhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from ssl_sat.data.sources import labels
from ssl_sat.data.sources.contract import LabelKind, PatchRef, Source, by_fractions_or_none
from ssl_sat.data.spec import ClassesSpec, LabelledSpec
from ssl_sat.data.splits import Assigned, assign_folders, digest_file, fill_from_train, split_folders, subset
from ssl_sat.spec import ConfigError, UserError, suggest

_STATED = ("folders", "csv", "pattern")  # splits that the data set says itself


class FolderSource(Source):
    """Files of some suffixes: `[<split>/]<class>/.../<file>`, or any depth without classes (`labels: none`).

    The id of a patch is its path below the root without the suffix, or the bare name where `names_are_ids`.
    """

    suffixes: tuple[str, ...] = ()
    names_are_ids = False
    spec: ClassesSpec

    @property
    def base(self) -> Path:
        """The folder of the class or split folders."""
        return self.root

    @property
    def by_class(self) -> bool:
        """True when folders are classes."""
        return getattr(self.spec, "labels", "folder") == "folder"

    @property
    def named(self) -> LabelledSpec | None:
        """The spec, where labels come from a CSV or from names."""
        spec = self.spec
        there = isinstance(spec, LabelledSpec) and getattr(spec, "labels", None) in ("csv", "pattern")
        return spec if there and isinstance(spec, LabelledSpec) else None

    @property
    @override
    def label_kind(self) -> LabelKind:
        if self.named is not None:
            return "multi" if self.named.is_multilabel else "single"
        return "single" if self.by_class else "none"

    @override
    def split_files(self) -> dict[str, Path]:
        held = self.named is not None and self.named.labels_file is not None
        return {"labels": labels.file_of(self.named)} if held and self.named is not None else {}

    @override
    def inventory(self) -> list[tuple[str, int]]:
        return [(self._id(path), size) for path, size in files_below(self.base, self.suffixes)]

    @override
    def find(self) -> list[PatchRef]:
        split = getattr(self.spec, "split", "none")
        tops = split_folders(self.base) if split == "folders" else {"": self.base}
        if not tops:
            assign_folders({str(self.base): ""}, self.base)  # says what was looked for
        refs = [ref for name, folder in tops.items() for ref in self._below(folder, name)]
        return labels.named(self.named, refs, self.suffixes, str(self.root)) if self.named is not None else refs

    def _below(self, folder: Path, split: str) -> list[PatchRef]:
        if not self.by_class:
            return self._refs(folder, files_below(folder, self.suffixes), split, ())
        loose = next((path for path, _ in files_below(folder, self.suffixes, deep=False)), None)
        if loose is not None:
            raise UserError(f"'{loose}' in '{folder}' lies outside the class folders. Put it into one, or set "
                            "data.labels=none where the source allows it.")  # fmt: skip
        refs, classes = [], _folders(folder)
        if len(classes) == 1 and not files_below(classes[0], self.suffixes, deep=False) and _folders(classes[0]):
            inner = classes[0]
            while len(_folders(inner)) == 1:
                inner = _folders(inner)[0]
            raise UserError(f"'{folder}' holds the one folder '{classes[0].name}' and its images lie deeper: all would "
                            f"be of one class. The class folders may be those of '{inner}': set data.root to it, or "
                            "data.labels=none where the source allows it.")  # fmt: skip
        for cls in classes:
            files = files_below(cls, self.suffixes)
            if not files:
                raise UserError(f"class folder '{cls}' holds no {'/'.join(self.suffixes)} files. Remove it or fill it.")
            refs += self._refs(cls, files, split, (cls.name,))
        return refs

    def _refs(self, folder: Path, files: list[tuple[str, int]], split: str, labels: tuple[str, ...]) -> list[PatchRef]:
        below = "" if folder == self.base else folder.relative_to(self.base).as_posix() + "/"
        return [PatchRef(self._id(below + path), self._prefix + below + path, split, labels) for path, _ in files]

    @cached_property
    def _prefix(self) -> str:
        """Path from the root to the base, '' or ending in a slash."""
        return "" if self.base == self.root else self.base.relative_to(self.root).as_posix() + "/"

    def _id(self, path: str) -> str:
        return os.path.splitext(path.rpartition("/")[2] if self.names_are_ids else path)[0]

    @override
    def assign(self, refs: list[PatchRef]) -> Assigned:
        scheme = getattr(self.spec, "split", "none")
        if self.named is not None:
            refs = [ref for ref in refs if ref.labels is not labels.UNLISTED]
        if scheme not in _STATED:
            assigned = by_fractions_or_none(self.spec, scheme, refs)
        else:
            assigned = assign_folders({ref.id: ref.split for ref in refs}, self.base)
        if scheme in _STATED and getattr(self.spec, "missing_splits", "none") == "from_train":
            class_of = {ref.id: ref.labels[0] if len(ref.labels) == 1 else "" for ref in refs}
            assigned = fill_from_train(assigned, class_of, self.spec)
        digests = {name: digest_file(path) for name, path in self.split_files().items()}
        return dataclasses.replace(assigned, files={**assigned.files, **digests})

    @override
    def choose(self, refs: list[PatchRef]) -> list[PatchRef]:
        wanted, limit, kind = self.spec.classes, self.spec.max_per_class, self.label_kind
        if (wanted or limit) and kind == "none":
            raise ConfigError(
                f"{self.spec.name}: data.classes and data.max_per_class need class folders (data.labels=folder), or "
                "labels by csv or pattern"
            )
        if wanted:
            known = {name for ref in refs for name in ref.labels}
            for name in wanted:
                if name not in known:
                    raise ConfigError(f"{self.spec.name}: no class '{name}' (there are: {', '.join(sorted(known))})"
                                      f"{suggest(name, known)}")  # fmt: skip
            held = [(ref, tuple(name for name in ref.labels if name in wanted)) for ref in refs]
            refs = [dataclasses.replace(ref, labels=names) for ref, names in held if names]
        if kind == "single" and getattr(self.spec, "split", "none") in _STATED:
            labels.refuse_different_classes(refs, str(self.root))
        if limit and kind == "multi":
            raise ConfigError(f"{self.spec.name}: data.max_per_class is for one label a patch; set data.max_patches.")
        if limit:
            refs = subset(refs, lambda ref: ref.labels[0], limit, self.spec.subset_seed)
        return refs

    @override
    def class_names(self, refs: Iterable[PatchRef]) -> tuple[str, ...]:
        return () if self.label_kind == "none" else super().class_names(refs)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def files_below(folder: Path, suffixes: tuple[str, ...], deep: bool = True) -> list[tuple[str, int]]:
    """(path relative to `folder`, size) of files with these suffixes, any case; hidden ones are passed over. Sorted."""
    found: list[tuple[str, int]] = []

    def walk(at: str, prefix: str) -> None:
        with os.scandir(at) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if deep:
                        walk(entry.path, f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(suffixes):
                    found.append((prefix + entry.name, entry.stat().st_size))

    walk(str(folder), "")
    return sorted(found)
