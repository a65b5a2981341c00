"""Splits: published lists, folders, seeded fractions. A patch is in one split or in none.

Every seeded choice orders patches by a hash of (seed, id): it does not depend on the order of a listing, on the
platform or on a library's generator, and one more patch on disk does not reshuffle the others.
"""

from __future__ import annotations

import bz2
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from ssl_sat.spec import MissingInput, UserError

ORDER = ("train", "val", "test")
_ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


class HasSplit(Protocol):
    """Anything with an id and a split."""

    @property
    def id(self) -> str:
        """Unique name."""

    @property
    def split(self) -> str:
        """Name of the split."""


Item = TypeVar("Item", bound=HasSplit)


@dataclass(frozen=True)
class Assigned:
    """Which split each id is in; ids in no split are missing from `split_of`."""

    split_of: Mapping[str, str]
    absent: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


def canonical(name: str) -> str:
    """`validation` and `valid` are `val`; other names stay."""
    return _ALIASES.get(name, name)


def rank(split: str) -> tuple[int, str]:
    """Sort key of splits: train, val, test, then any other by name."""
    return (ORDER.index(split) if split in ORDER else len(ORDER), split)


def digest_file(path: Path) -> str:
    """Sha256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_names(path: Path) -> list[str]:
    """Names in a list file: one per line, the first column of a CSV; .bz2 is unpacked."""
    if not path.is_file():
        raise MissingInput(f"no split list '{path}'")
    data = path.read_bytes()
    text = (bz2.decompress(data) if path.suffix == ".bz2" else data).decode("utf-8")
    return [line.split(",")[0].strip() for line in text.splitlines() if line.strip()]


def assign_lists(
    lists: Mapping[str, Sequence[str]],
    present: Iterable[str],
    files: Mapping[str, Path],
    allow_absent: bool,
) -> Assigned:
    """Splits from published lists of names.

    Raises UserError for a name in two lists (or twice in one), and for names that are not on disk unless
    `allow_absent`; those are then counted.
    """
    split_of: dict[str, str] = {}
    for split, names in lists.items():
        for name in names:
            if name in split_of:
                both = f"in '{split_of[name]}' and in '{split}'" if split_of[name] != split else f"twice in '{split}'"
                raise UserError(f"'{name}' is {both} ({', '.join(sorted({str(p) for p in files.values()}))}). "
                                "An image belongs to one split: repair the lists.")  # fmt: skip
            split_of[name] = split
    here = set(present)
    absent = sorted(name for name in split_of if name not in here)
    if absent and not allow_absent:
        raise UserError(
            f"{len(absent)} of {len(split_of)} images named by the split lists are not on disk, the first: "
            f"{', '.join(absent[:3])} (lists: {', '.join(sorted({str(p) for p in files.values()}))}). "
            "Complete the data set, or accept a part of it with data.allow_absent=true."
        )
    digests = {path.name: digest_file(path) for path in files.values()}
    return Assigned({name: split for name, split in split_of.items() if name in here}, len(absent), digests)


def assign_fractions(class_of: Mapping[str, str], val_fraction: float, test_fraction: float, seed: int) -> Assigned:
    """Seeded split, stratified by class: each class gives round(n * fraction) to test and to val, the rest to train."""
    members: dict[str, list[str]] = defaultdict(list)
    for name, cls in class_of.items():
        members[cls].append(name)
    split_of: dict[str, str] = {}
    for names in members.values():
        ordered = seeded_order(names, seed)
        n_test, n_val = round(len(names) * test_fraction), round(len(names) * val_fraction)
        for at, name in enumerate(ordered):
            split_of[name] = "test" if at < n_test else "val" if at < n_test + n_val else "train"
    return Assigned(split_of)


class HasFractions(Protocol):
    """What a seeded split is asked for."""

    @property
    def val_fraction(self) -> float:
        """Share of each class that goes to val."""

    @property
    def test_fraction(self) -> float:
        """Share of each class that goes to test."""

    @property
    def split_seed(self) -> int:
        """Of the order in which patches are taken."""


def fill_from_train(assigned: Assigned, class_of: Mapping[str, str], wanted: HasFractions) -> Assigned:
    """Take the splits val and test that are not there from train, stratified by class; those that are there stay."""
    there = set(assigned.split_of.values())
    train = {name: class_of[name] for name, split in assigned.split_of.items() if split == "train"}
    shares = {"val": wanted.val_fraction, "test": wanted.test_fraction}
    shares = {split: 0.0 if split in there else share for split, share in shares.items()}
    taken = assign_fractions(train, shares["val"], shares["test"], wanted.split_seed)
    return replace(assigned, split_of={**assigned.split_of, **taken.split_of})


def assign_folders(split_of: Mapping[str, str], root: Path) -> Assigned:
    """Splits stated by the data set itself; raises UserError when it states none."""
    unknown = sorted(name for name, split in split_of.items() if not split)
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(split_of)} patches in '{root}' lie in no split, the first: {unknown[0]}. "
            "split=folders needs train/, val/ or test/ below the root; or set data.split=fractions or none."
        )
    return Assigned(split_of)


def split_folders(root: Path) -> dict[str, Path]:
    """The subfolders of `root` that name a split, e.g. {'train': root/train, 'val': root/validation}."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in root.iterdir() if path.is_dir() and canonical(path.name) in ORDER):
        split = canonical(path.name)
        if split in found:
            raise UserError(f"two folders for the split '{split}' in '{root}': {found[split].name} and {path.name}")
        found[split] = path
    return found


def seeded_order(names: Iterable[str], seed: int) -> list[str]:
    """Names ordered by a 128-bit hash of (seed, name)."""
    return sorted(names, key=lambda name: (hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest(), name))


def subset(items: Sequence[Item], group_of: Callable[[Item], str], limit: int, seed: int) -> list[Item]:
    """Keep at most `limit` of each group, shared over the splits in proportion to their size; the order is kept.

    Shares are rounded by largest remainder, ties going to the earlier split.
    """
    pools: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        pools[group_of(item)][item.split].append(item.id)
    kept: set[str] = set()
    for by_split in pools.values():
        quota = _shares({split: len(names) for split, names in by_split.items()}, limit)
        for split, names in by_split.items():
            kept.update(seeded_order(names, seed)[: quota[split]])
    return [item for item in items if item.id in kept]


def _shares(sizes: Mapping[str, int], limit: int) -> Counter[str]:
    total = sum(sizes.values())
    wanted = min(limit, total)
    quota = Counter({split: wanted * size // total for split, size in sizes.items()})
    by_remainder = sorted(sizes, key=lambda split: (-(wanted * sizes[split] % total), rank(split)))
    for split in by_remainder[: wanted - quota.total()]:
        quota[split] += 1
    return quota
