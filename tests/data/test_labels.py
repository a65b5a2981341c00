"""Labels from folders, a CSV or names; splits that the data states, and those taken from train."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import source_digest, write_pack
from ssl_sat.spec import ConfigError, MissingInput, UserError

COUNTS = {"barn": 12, "quay": 8}


def write(root: Path, splits: tuple[str, ...] = ("",), flat: bool = False, classes: Any = None) -> list[str]:
    """Tiny PNGs `[split/][class/]<class>_<n>`; return their paths without suffix."""
    names = []
    for split in splits:
        for cls, count in (classes or COUNTS).items():
            folder = root / split / ("" if flat else cls)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                stem = f"{split}{'_' if split else ''}{cls}_{number}"
                Image.new("RGB", (8, 8), (number, 10, 200)).save(folder / f"{stem}.png")
                names.append((folder / stem).relative_to(root).as_posix())
    return names


def listing(root: Path, **config: Any) -> Any:
    return SOURCES.build(SOURCES.parse({"name": "imagefolder", "root": str(root), "size_px": 8, **config})).listing()


def labels_of(found: Any) -> dict[str, tuple[str, ...]]:
    return {ref.id: ref.labels for ref in found.refs}


def table(path: Path, *rows: str) -> str:
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", ["", ".png"])
def test_labels_and_splits_of_a_csv(tmp_path: Path, delimiter: str, suffix: str) -> None:
    names = write(tmp_path / "images", flat=True)
    rows = [f"{name}{suffix}{delimiter}{'Barn, old' if 'barn' in name else 'Quay'}{delimiter}"
            f"{('train', 'validation', 'test')[at % 3]}" for at, name in enumerate(names[:-2])]  # fmt: skip
    rows = [row.replace("Barn, old", '"Barn, old"') for row in rows]
    file = table(tmp_path / "labels.csv", delimiter.join(("image", "kind", "part")), *rows)
    columns = {"file_column": "image", "label_column": "kind", "split_column": "part"}
    found = listing(tmp_path / "images", labels="csv", split="csv", labels_file=file, **columns)
    assert found.label_kind == "single" and found.classes == ("Barn, old", "Quay")
    assert labels_of(found) == {n: ("Barn, old",) if "barn" in n else ("Quay",) for n in names[:-2]}
    assert {ref.id: ref.split for ref in found.refs} == {
        n: ("train", "val", "test")[at % 3] for at, n in enumerate(names[:-2])
    }
    assert found.unlisted == 2 and list(found.split_files) == ["labels"]


def test_paths_are_matched_where_the_csv_has_them(tmp_path: Path) -> None:
    names = write(tmp_path / "d")
    file = table(tmp_path / "l.csv", "file,label", *(f"./{name}.png,{name[0]}" for name in names))
    assert labels_of(listing(tmp_path / "d", labels="csv", labels_file=file)) == {n: (n[0],) for n in names}


def test_several_labels_by_separator_and_by_columns_are_the_same(tmp_path: Path) -> None:
    names = write(tmp_path / "d", flat=True)
    held = [("a",), ("b", "c"), (), ("a", "c")]
    of = {name: held[at % 4] for at, name in enumerate(names)}
    one = table(tmp_path / "one.csv", "file,label", *(f"{n},{'; '.join(of[n])}" for n in names))
    columns = table(
        tmp_path / "columns.csv", "file,a,b,c", *(f"{n},{','.join(str(int(c in of[n])) for c in 'abc')}" for n in names)
    )
    first = listing(tmp_path / "d", labels="csv", labels_file=one, label_separator=";")
    second = listing(tmp_path / "d", labels="csv", labels_file=columns, label_column=["a", "b", "c"])
    assert first.label_kind == second.label_kind == "multi"
    assert labels_of(first) == labels_of(second) == of
    kept = listing(tmp_path / "d", labels="csv", labels_file=one, label_separator=";", classes=["b", "c"])
    assert labels_of(kept) == {n: tuple(c for c in v if c != "a") for n, v in of.items() if set(v) & {"b", "c"}}
    assert kept.classes == ("b", "c")


def test_a_multi_label_pack_holds_ones_where_a_class_is_present(tmp_path: Path) -> None:
    names = write(tmp_path / "d", flat=True)
    file = table(tmp_path / "l.csv", "file,label", *(f"{n},{'x y' if 'barn' in n else 'y'}" for n in names))
    config = {"labels": "csv", "labels_file": file, "label_separator": " ", "size_px": 8, "split": "fractions"}
    spec = SOURCES.parse({"name": "imagefolder", "root": str(tmp_path / "d"), **config})
    write_pack(spec, tmp_path / "pack")
    pack = Pack.open(tmp_path / "pack")
    assert pack.manifest.label_kind == "multi" and pack.classes == ("x", "y")
    np.testing.assert_array_equal(pack.labels, [[float("barn" in name), 1.0] for name in pack.ids])
    before = source_digest(spec)
    table(tmp_path / "l.csv", "file,label", *(f"{n},y" for n in names))
    assert source_digest(spec) != before  # other labels are another data set
    assert json.loads((tmp_path / "pack" / "manifest.json").read_text())["split_files"]["labels"]


def test_labels_and_splits_of_names(tmp_path: Path) -> None:
    names = write(tmp_path, ("train", "val", "test"), flat=True)
    pattern = r"(?P<split>train|val|test)_(?P<label>[a-z]+)_\d+$"
    found = listing(tmp_path, labels="pattern", split="pattern", pattern=pattern)
    assert labels_of(found) == {n: (re.split("[_/]", n)[-2],) for n in names}
    assert all(ref.id.startswith(ref.split) for ref in found.refs)
    with pytest.raises(UserError, match=r"20 of 60 names .* do not match .*test/test_barn_0"):
        listing(tmp_path, labels="pattern", pattern="^(train|val)/.*_(?P<label>[a-z]+)_")


def test_a_stratified_split_has_the_rounded_share_of_every_class(tmp_path: Path) -> None:
    write(tmp_path)
    found = listing(tmp_path, split="fractions", val_fraction=0.25, test_fraction=0.25)
    assert Counter((ref.split, ref.labels[0]) for ref in found.refs) == {
        ("train", "barn"): 6, ("val", "barn"): 3, ("test", "barn"): 3,
        ("train", "quay"): 4, ("val", "quay"): 2, ("test", "quay"): 2,
    }  # fmt: skip


@pytest.mark.parametrize("there", [("train", "val"), ("train", "test"), ("train",)])
def test_splits_that_are_not_there_are_taken_from_train_alone(tmp_path: Path, there: tuple[str, ...]) -> None:
    write(tmp_path, there)
    shares = {"val_fraction": 0.25, "test_fraction": 0.25}
    stated = listing(tmp_path, split="folders", **shares)
    assert {ref.split for ref in stated.refs} == set(there)
    found = listing(tmp_path, split="folders", missing_splits="from_train", **shares)
    counts = Counter((ref.split, ref.labels[0]) for ref in found.refs)
    for split in ("val", "test"):
        of = [ref for ref in found.refs if ref.split == split]
        expected = COUNTS if split in there else {"barn": 3, "quay": 2}
        assert {cls: counts[split, cls] for cls in COUNTS} == expected
        assert all(ref.id.startswith(split if split in there else "train") for ref in of)
    assert counts.total() == 20 * len(there)


def test_classes_that_differ_are_one_error_that_names_them(tmp_path: Path) -> None:
    write(tmp_path, ("train",), classes={"barn": 2, "quay": 2, "Lake": 1})
    write(tmp_path, ("val",), classes={"barn": 2, "quay": 2, "lake": 1})
    with pytest.raises(UserError) as error:
        listing(tmp_path, split="folders")
    assert "train lacks lake; val lacks Lake" in str(error.value)
    assert "data.classes=[barn,quay]" in str(error.value)
    assert listing(tmp_path, split="folders", classes=["barn", "quay"]).classes == ("barn", "quay")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"labels": "pattern"}, "labels=pattern needs a pattern"),
        ({"labels": "pattern", "pattern": "("}, "no regular expression"),
        ({"labels": "pattern", "pattern": "a+"}, r"a group \(\?P<label>"),
        ({"labels": "pattern", "pattern": "(?P<label>a)", "split": "pattern"}, r"\(\?P<split>"),
        ({"labels": "folder", "split": "csv"}, "set labels=csv"),
        ({"label_separator": ""}, "at least 1 character"),
    ],
)
def test_what_does_not_go_together_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SOURCES.parse({"name": "imagefolder", **config})


@pytest.mark.parametrize(
    ("rows", "said", "kind"),
    [
        (["file,kind", "barn_0,x"], r"no column 'label' \(there are: file, kind\)", ConfigError),
        (["file,label", "barn_0,x", "barn_0,y"], "line 3: 'barn_0' is named twice", UserError),
        (["file,label", "barn_0,"], "line 2: no label", UserError),
        (["file,label", "barn_0,x", "shed_1,y"], "1 of 2 patches of .* the first: shed_1", UserError),
        (["file,label"], "holds no rows", UserError),
    ],
)
def test_a_csv_that_cannot_be_used_says_why(tmp_path: Path, rows: list[str], said: str, kind: type[Exception]) -> None:
    write(tmp_path / "d", flat=True)
    with pytest.raises(kind, match=said):
        listing(tmp_path / "d", labels="csv", labels_file=table(tmp_path / "l.csv", *rows))


def test_bare_names_that_repeat_need_paths(tmp_path: Path) -> None:
    write(tmp_path / "d" / "one", flat=True)
    write(tmp_path / "d" / "two", flat=True)
    with pytest.raises(UserError, match="holds two called 'barn_0'"):
        listing(tmp_path / "d", labels="csv", labels_file=table(tmp_path / "l.csv", "file,label", "barn_0,x"))


def test_an_absent_csv_is_a_missing_input(tmp_path: Path) -> None:
    write(tmp_path / "d", flat=True)
    with pytest.raises(MissingInput, match=r"data\.labels_file=<a CSV with the columns file, label>"):
        listing(tmp_path / "d", labels="csv")
    with pytest.raises(MissingInput, match="no file"):
        listing(tmp_path / "d", labels="csv", labels_file=str(tmp_path / "none.csv"))
