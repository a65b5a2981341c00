import bz2
import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssl_sat.data import splits
from ssl_sat.spec import MissingInput, UserError


@dataclass(frozen=True)
class Item:
    id: str
    split: str
    cls: str


def test_fractions_are_stratified_exactly() -> None:
    class_of = {f"{cls}{n}": cls for cls, size in (("a", 100), ("b", 37)) for n in range(size)}
    split_of = splits.assign_fractions(class_of, 0.1, 0.2, seed=3).split_of
    counts = {(cls, s): sum(split_of[name] == s for name in class_of if class_of[name] == cls)
              for cls in "ab" for s in splits.ORDER}  # fmt: skip
    assert counts == {("a", "train"): 70, ("a", "val"): 10, ("a", "test"): 20,
                      ("b", "train"): 26, ("b", "val"): 4, ("b", "test"): 7}  # fmt: skip


def test_fractions_depend_on_seed_and_not_on_order() -> None:
    class_of = {f"n{n}": "a" for n in range(200)}
    backwards = dict(reversed(class_of.items()))
    one = splits.assign_fractions(class_of, 0.2, 0.2, seed=0).split_of
    assert one == splits.assign_fractions(backwards, 0.2, 0.2, seed=0).split_of
    other = splits.assign_fractions(class_of, 0.2, 0.2, seed=1).split_of
    assert 20 < sum(one[name] != other[name] for name in class_of) < 180


def test_one_more_patch_moves_at_most_the_boundaries() -> None:
    class_of = {f"n{n}": "a" for n in range(100)}
    one = splits.assign_fractions(class_of, 0.1, 0.2, seed=0).split_of
    more = splits.assign_fractions(class_of | {"new": "a"}, 0.1, 0.2, seed=0).split_of
    assert sum(one[name] != more[name] for name in class_of) <= 2


def lists(tmp_path: Path, **names: str) -> tuple[dict[str, list[str]], dict[str, Path]]:
    files = {}
    for split, text in names.items():
        files[split] = tmp_path / f"{split}.txt"
        files[split].write_text(text)
    return {split: splits.read_names(path) for split, path in files.items()}, files


def test_lists_assign_count_and_digest(tmp_path: Path) -> None:
    names, files = lists(tmp_path, train="a\nb", val="c\n", test="d\n\n")
    assigned = splits.assign_lists(names, ["a", "b", "c", "x"], files, allow_absent=True)
    assert assigned.split_of == {"a": "train", "b": "train", "c": "val"}
    assert assigned.absent == 1
    # sha256 of the three bytes 'a\nb', from coreutils
    assert assigned.files["train.txt"] == splits.digest_file(files["train"])
    assert len(set(assigned.files.values())) == 3


def test_absent_images_are_an_error_that_counts_them(tmp_path: Path) -> None:
    names, files = lists(tmp_path, train="a\nb\n", test="d\n")
    with pytest.raises(UserError, match=r"2 of 3 images .*first: b, d .*allow_absent=true"):
        splits.assign_lists(names, ["a"], files, allow_absent=False)


@pytest.mark.parametrize(
    "train, test, said", [("a\nb", "b", "'b' is in 'train' and in 'test'"), ("a\na", "b", "twice in 'train'")]
)
def test_a_name_belongs_to_one_split(tmp_path: Path, train: str, test: str, said: str) -> None:
    names, files = lists(tmp_path, train=train, test=test)
    with pytest.raises(UserError, match=said):
        splits.assign_lists(names, ["a", "b"], files, allow_absent=False)


def test_names_come_from_text_csv_and_bz2(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one,1\r\n two ,2\r\n")
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(b"one\ntwo"))
    assert splits.read_names(tmp_path / "a.csv") == splits.read_names(tmp_path / "a.csv.bz2") == ["one", "two"]
    with pytest.raises(MissingInput, match=r"gone\.txt"):
        splits.read_names(tmp_path / "gone.txt")


def test_subset_shares_follow_the_splits() -> None:
    items = [
        Item(f"{cls}{n}", "train" if n < 60 else "val" if n < 80 else "test", cls) for cls in "ab" for n in range(100)
    ]
    kept = splits.subset(items, lambda item: item.cls, 10, seed=0)
    counts = {(cls, s): sum(k.cls == cls and k.split == s for k in kept) for cls in "ab" for s in splits.ORDER}
    assert counts == {(cls, s): n for cls in "ab" for s, n in zip(splits.ORDER, (6, 2, 2), strict=True)}
    assert kept == [item for item in items if item in kept]
    assert {k.id for k in kept} == {k.id for k in splits.subset(items[::-1], lambda item: item.cls, 10, seed=0)}
    assert kept != splits.subset(items, lambda item: item.cls, 10, seed=1)


def test_smaller_subsets_are_nested_in_larger_ones() -> None:
    items = [Item(f"n{n}", "train", "a") for n in range(50)]
    sets = [{item.id for item in splits.subset(items, lambda item: "", limit, 0)} for limit in (1, 7, 20, 50, 80)]
    assert [len(s) for s in sets] == [1, 7, 20, 50, 50]
    assert all(small < large or small == large for small, large in itertools.pairwise(sets))


def test_largest_remainder_reaches_the_limit() -> None:
    items = [Item(f"n{n}", s, "a") for s, size in (("train", 5), ("val", 5), ("test", 5)) for n in range(0, size)]
    items = [Item(f"{i.split}{i.id}", i.split, "a") for i in items]
    kept = splits.subset(items, lambda item: "", 7, 0)
    assert [sum(k.split == s for k in kept) for s in splits.ORDER] == [3, 2, 2]


def test_split_folders_and_their_other_names(tmp_path: Path) -> None:
    for name in ("train", "validation", "other"):
        (tmp_path / name).mkdir()
    assert splits.split_folders(tmp_path) == {"train": tmp_path / "train", "val": tmp_path / "validation"}
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="two folders for the split 'val'"):
        splits.split_folders(tmp_path)


def test_order_of_splits() -> None:
    assert sorted(["zoo", "test", "val", "ood", "train"], key=splits.rank) == ["train", "val", "test", "ood", "zoo"]
