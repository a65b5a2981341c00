"""Subsets of a pack's rows, against their rules in closed form."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ssl_sat.data.subset import SubsetSpec, select
from ssl_sat.spec import ConfigError, UserError


class FakeManifest:
    def __init__(self, label_kind: str) -> None:
        self.label_kind = label_kind


class FakePack:
    """What `select` asks of a pack: ids, labels, classes, kind."""

    folder = Path("a_pack")

    def __init__(self, labels: np.ndarray, classes: tuple[str, ...], kind: str) -> None:
        self.labels, self.classes, self.manifest = labels, classes, FakeManifest(kind)
        self.ids = [f"patch_{number}" for number in range(len(labels))]

    def column(self, name: str) -> pa.Array:
        assert name == "id"
        return pa.array(self.ids)


SIZES = {"common": 250, "rare": 30, "single": 1}


def single() -> Any:
    labels = np.repeat(np.arange(3), list(SIZES.values()))
    return FakePack(np.random.default_rng(0).permutation(labels), tuple(SIZES), "single")


def multi() -> Any:
    rng = np.random.default_rng(1)
    return FakePack((rng.random((400, 4)) < [0.6, 0.2, 0.05, 0.1]).astype(np.float32), tuple("abcd"), "multi")


def unlabelled() -> Any:
    return FakePack(np.full(100, -1), (), "none")


def counts(pack: Any, rows: np.ndarray) -> list[int]:
    return [int((pack.labels[rows] == number).sum()) for number in range(len(pack.classes))]


def test_none_takes_all_rows_in_order() -> None:
    np.testing.assert_array_equal(select(single(), np.array([7, 3, 5]), None), [3, 5, 7])


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.25, 1.0])
def test_fraction_of_every_class_at_least_one(fraction: float) -> None:
    pack = single()
    rows = select(pack, np.arange(281), SubsetSpec(fraction=fraction))
    assert rows.dtype == np.int64 and (np.diff(rows) > 0).all()
    assert counts(pack, rows) == [max(1, round(size * fraction)) for size in SIZES.values()]


@pytest.mark.parametrize("make", [multi, unlabelled])
def test_fraction_of_patches_where_classes_do_not_partition_them(make: Any) -> None:
    pack = make()
    rows = select(pack, np.arange(len(pack.ids)), SubsetSpec(fraction=0.1))
    assert len(rows) == round(0.1 * len(pack.ids))


def test_per_class_takes_exactly_that_many_of_single_labels() -> None:
    pack = single()
    among = np.flatnonzero(pack.labels != 2)
    pack.classes = pack.classes[:2]
    assert counts(pack, select(pack, among, SubsetSpec(per_class=20))) == [20, 20]


def test_per_class_of_multi_labels_is_the_greedy_walk() -> None:
    """A walk in hash order that takes a patch while one of its classes lacks some, written out naively."""
    pack, k = multi(), 15
    rows = select(pack, np.arange(400), SubsetSpec(per_class=k, seed=3))
    order = [  # subsets of every size, nested: the order they were taken in
        next(iter(set(select(pack, np.arange(400), SubsetSpec(patches=n, seed=3))) - before))
        for n in range(1, 401)
        for before in [set(select(pack, np.arange(400), SubsetSpec(patches=n - 1, seed=3))) if n > 1 else set()]
    ]
    held, taken = np.zeros(4), []
    for row in order:
        present = pack.labels[row] > 0
        if (held[present] < k).any():
            taken.append(row)
            held[present] += 1
    np.testing.assert_array_equal(rows, np.sort(taken))
    assert (pack.labels[rows].sum(0) >= k).all()
    assert pack.labels[rows].any(axis=1).all()  # a patch without labels serves no class


@pytest.mark.parametrize("kind, sizes", [("patches", (1, 5, 60, 200)), ("fraction", (0.01, 0.02, 0.1, 0.5, 1.0)),
                                         ("per_class", (1, 2, 7, 12))])  # fmt: skip
@pytest.mark.parametrize("make", [single, multi])
def test_smaller_is_contained_in_larger(make: Any, kind: str, sizes: tuple[float, ...]) -> None:
    pack = make()
    rows = np.arange(len(pack.ids)) if make is multi or kind != "per_class" else np.flatnonzero(pack.labels != 2)
    pack.classes = pack.classes if make is multi or kind != "per_class" else pack.classes[:2]
    chosen = [set(select(pack, rows, SubsetSpec(**{kind: size})).tolist()) for size in sizes]
    assert all(small < large for small, large in itertools.pairwise(chosen))


def test_depends_on_seed_and_id_and_not_on_the_rest_of_the_pack() -> None:
    pack = single()
    one = select(pack, np.arange(281), SubsetSpec(patches=50))
    assert set(one) != set(select(pack, np.arange(281), SubsetSpec(patches=50, seed=1)))
    half = select(pack, np.arange(140), SubsetSpec(patches=50))
    assert set(one[one < 140]) <= set(half)  # the front of the order stays in front when the others are gone
    turned = single()
    turned.ids, turned.labels = turned.ids[::-1], turned.labels[::-1]
    assert {turned.ids[row] for row in select(turned, np.arange(281), SubsetSpec(patches=50))} == {
        pack.ids[row] for row in one
    }


def test_too_few_is_an_error_that_counts() -> None:
    with pytest.raises(UserError, match=r"patches=300, but there are only 281"):
        select(single(), np.arange(281), SubsetSpec(patches=300))
    with pytest.raises(UserError, match=r"per_class=31, but 2 of 3 classes .* single \(1\), rare \(30\)"):
        select(single(), np.arange(281), SubsetSpec(per_class=31))
    with pytest.raises(UserError, match="no labels"):
        select(unlabelled(), np.arange(100), SubsetSpec(per_class=1))


@pytest.mark.parametrize(
    "values, said",
    [
        ({}, "none is set"),
        ({"patches": 3, "fraction": 0.1}, "patches and fraction are set"),
        ({"fraction": 1.5}, "fraction"),
        ({"per_class": 0}, "per_class"),
        ({"per_clas": 1}, "did you mean 'per_class'"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SubsetSpec.parse(values)
