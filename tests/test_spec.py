"""Specs refuse what they do not know, coerce nothing into another meaning, and tell science from runtime."""

from typing import Literal

import pytest
from pydantic import Field

from ssl_sat.spec import ConfigError, Spec, later, runtime, suggest


class Head(Spec):
    hidden: tuple[int, ...] = (4, 2)
    workers: int = runtime(3)


class Tiny(Spec):
    name: Literal["tiny", "small"] = "tiny"
    lr: float = Field(0.1, gt=0)
    epochs: int | None = 1
    flag: bool = False
    head: Head | None = Head()
    device: str = runtime("cpu")


def error_of(**values: object) -> str:
    with pytest.raises(ConfigError) as error:
        Tiny.parse(values, "tiny")
    return str(error.value)


def test_science_leaves_runtime_out_at_every_depth() -> None:
    assert Tiny(device="cuda", head=Head(workers=9)).science() == {
        "name": "tiny",
        "lr": 0.1,
        "epochs": 1,
        "flag": False,
        "head": {"hidden": [4, 2]},
    }


def test_every_mistake_has_its_line_and_its_suggestion() -> None:
    assert error_of(lrr=1, name="smal", head={"hiden": [1]}).splitlines() == [
        "tiny.name: Input should be 'tiny' or 'small' (got 'smal'); did you mean 'small'?",
        "tiny.head: unknown key 'hiden'; did you mean 'hidden'?",
        "tiny: unknown key 'lrr'; did you mean 'lr'?",
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(number: float) -> None:
    assert "lr" in error_of(lr=number)


def test_true_is_no_number_but_a_flag() -> None:
    assert error_of(lr=True) == "tiny.lr: a number is needed (got True)"
    assert error_of(epochs=True) == "tiny.epochs: a number is needed (got True)"
    assert Tiny(flag=True).flag is True


def test_one_number_has_one_science() -> None:
    assert Tiny(lr=1).science() == Tiny(lr=1.0).science() == Tiny.parse({"lr": "1"}).science()


def test_long_values_are_cut_in_messages() -> None:
    assert len(error_of(lr="x" * 10_000)) < 250


def test_specs_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Tiny().lr = 2.0


def test_suggestions_are_close_or_absent() -> None:
    assert suggest("encodr", ["encoder", "data"]) == "; did you mean 'encoder'?"
    assert suggest("zzz", ["encoder", "data"]) == ""


class Before(Spec):
    lr: float = 0.1
    head: Head = Head()


class HeadAfter(Head):
    dropout: float = later(0.0, ge=0)


class After(Before):
    head: HeadAfter = HeadAfter()  # type: ignore[assignment]
    mixed: tuple[str, ...] = later(())


def test_a_later_field_at_its_default_leaves_the_science_as_it_was() -> None:
    assert After().science() == Before().science()
    assert After(mixed=("a",)).science() == {**Before().science(), "mixed": ["a"]}
    assert After(head=HeadAfter(dropout=0.5)).science()["head"] == {"hidden": [4, 2], "dropout": 0.5}
    with pytest.raises(ConfigError, match=r"head\.dropout"):
        After.parse({"head": {"dropout": -1}})
