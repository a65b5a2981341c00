"""Labels and splits that lie in a CSV or in the patches' own names, and the check that the splits share classes."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ssl_sat.data.sources.contract import PatchRef
from ssl_sat.data.spec import LabelledSpec
from ssl_sat.data.splits import canonical, rank
from ssl_sat.spec import ConfigError, MissingInput, UserError, suggest

UNLISTED: tuple[str, ...] = ("",)  # labels of a patch that the CSV does not name; told by identity
_YES, _NO = {"1", "1.0", "true", "yes"}, {"", "0", "0.0", "false", "no"}


def file_of(spec: LabelledSpec) -> Path:
    """The CSV of the labels; MissingInput when it is not set or not there."""
    if spec.labels_file is None:
        raise MissingInput(
            f"{spec.name}: data.labels=csv needs data.labels_file=<a CSV with the columns {spec.file_column}, "
            f"{', '.join(_label_columns(spec))}>."
        )
    path = Path(spec.labels_file).expanduser()
    if not path.is_file():
        raise MissingInput(f"{spec.name}: no file '{path}' (data.labels_file).")
    return path


def named(spec: LabelledSpec, refs: list[PatchRef], suffixes: Sequence[str], root: str) -> list[PatchRef]:
    """The patches with the labels, and with split=csv or pattern the splits, that the CSV or their names state.

    Patches that the CSV does not name get the labels UNLISTED. Raises UserError for names that do not match, for rows
    without a file, and for files named twice.
    """
    if getattr(spec, "labels", None) == "pattern":
        return _by_pattern(spec, refs, root)
    return _by_csv(spec, refs, suffixes, root)


def _by_pattern(spec: LabelledSpec, refs: list[PatchRef], root: str) -> list[PatchRef]:
    pattern = re.compile(spec.pattern or "")
    matches = [pattern.search(ref.id) for ref in refs]
    others = [ref.id for ref, match in zip(refs, matches, strict=True) if match is None or not match["label"]]
    if others:
        raise UserError(
            f"{spec.name}: {len(others)} of {len(refs)} names in '{root}' do not match data.pattern='{spec.pattern}', "
            f"the first: {', '.join(others[:3])}. Paths are matched below the root, without suffix."
        )
    found = []
    for ref, match in zip(refs, matches, strict=True):
        assert match is not None
        split = canonical(match["split"]) if getattr(spec, "split", None) == "pattern" else ref.split
        found.append(replace(ref, labels=_names(spec, match["label"]), split=split or ""))
    return found


def _by_csv(spec: LabelledSpec, refs: list[PatchRef], suffixes: Sequence[str], root: str) -> list[PatchRef]:
    path = file_of(spec)
    rows = _rows(spec, path, suffixes)
    by_path = any("/" in name for name in rows)
    keys = [ref.id if by_path else ref.id.rpartition("/")[2] for ref in refs]
    often = Counter(keys)
    if len(often) != len(keys):
        twice = often.most_common(1)[0][0]
        raise UserError(f"{path} names patches without their folders, and '{root}' holds two called '{twice}'. Put "
                        "paths below the root into the column.")  # fmt: skip
    absent = [name for name in rows if name not in often]
    if absent:
        where = "as a path below the root" if by_path else "by its bare name"
        raise UserError(
            f"{len(absent)} of {len(rows)} patches of {path} are not in '{root}', looked for {where}, the first: "
            f"{', '.join(absent[:3])}. Complete the data set, or remove the rows."
        )
    found = []
    for ref, key in zip(refs, keys, strict=True):
        labels, split = rows.get(key, (UNLISTED, ""))
        found.append(replace(ref, labels=labels, split=split if getattr(spec, "split", None) == "csv" else ref.split))
    return found


def _rows(spec: LabelledSpec, path: Path, suffixes: Sequence[str]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Labels and split of each name, without its suffix."""
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for number, row in enumerate(_table(spec, path), start=2):
        name = row[spec.file_column].strip().replace("\\", "/").removeprefix("./")
        stem, suffix = os.path.splitext(name)
        name = stem if suffix.lower() in suffixes else name
        labels = _labels_in(spec, row, f"{path}, line {number}")
        split = canonical((row.get(spec.split_column) or "").strip())
        if name in found and not (spec.is_multilabel and found[name][1] == split):
            raise UserError(f"{path}, line {number}: '{name}' is named twice. A patch has one row.")
        labels = tuple(sorted({*found.get(name, ((), ""))[0], *labels})) if spec.is_multilabel else labels
        found[name] = (labels, split)
    if not found:
        raise UserError(f"{path} holds no rows.")
    return found


def _table(spec: LabelledSpec, path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV whose delimiter is a comma, a semicolon or a tab; ConfigError for a column that is not there."""
    wanted = [spec.file_column, *_label_columns(spec)]
    wanted += [spec.split_column] if getattr(spec, "split", None) == "csv" else []
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline().strip()
        delimiter = max(",;\t", key=header.count)
        columns = next(csv.reader([header], delimiter=delimiter), [])
        for name in wanted:
            if name not in columns:
                raise ConfigError(
                    f"{path}: no column '{name}' (there are: {', '.join(columns)}){suggest(name, columns)}. Set "
                    "data.file_column, data.label_column, data.split_column."
                )
        yield from csv.DictReader(file, columns, delimiter=delimiter, restval="")


def _labels_in(spec: LabelledSpec, row: dict[str, str], where: str) -> tuple[str, ...]:
    if isinstance(spec.label_column, str):
        return _names(spec, row[spec.label_column], where)
    strange = [f"{name}={row[name]}" for name in spec.label_column if row[name].strip().lower() not in _YES | _NO]
    if strange:
        raise UserError(f"{where}: {', '.join(strange)}: 0 or 1 is needed in the columns of data.label_column.")
    return tuple(sorted(name for name in spec.label_column if row[name].strip().lower() in _YES))


def _names(spec: LabelledSpec, text: str, where: str = "") -> tuple[str, ...]:
    if spec.label_separator is not None:
        return tuple(sorted({part.strip() for part in text.split(spec.label_separator) if part.strip()}))
    if not text.strip():
        raise UserError(f"{where}: no label. Fill it in, or remove the row.")
    return (text.strip(),)


def _label_columns(spec: LabelledSpec) -> tuple[str, ...]:
    return (spec.label_column,) if isinstance(spec.label_column, str) else spec.label_column


def refuse_different_classes(refs: Sequence[PatchRef], root: str) -> None:
    """UserError unless train, val and test have the same classes, as far as they are there; it names what each lacks.

    A class that train lacks can never be predicted; one that val or test lack is usually a misspelt folder.
    """
    classes: dict[str, set[str]] = {}
    for ref in refs:
        classes.setdefault(ref.split, set()).update(ref.labels)
    splits, known = sorted(classes, key=rank), set().union(*classes.values())
    lacks = {split: sorted(known - classes[split]) for split in splits if known - classes[split]}
    if lacks:
        shared = sorted(set.intersection(*classes.values()))
        keep = f", or keep the shared ones: data.classes=[{','.join(shared)}]" if len(shared) > 1 else ""
        text = "; ".join(f"{split} lacks {', '.join(names)}" for split, names in lacks.items())
        raise UserError(f"classes of {', '.join(splits)} in '{root}' differ: {text}. Correct the folders{keep}.")
