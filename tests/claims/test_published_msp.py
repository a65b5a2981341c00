"""The study's MSP column, printed as a confidence: shown right in the documentation, by arithmetic alone."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "ood.md"
AS_PRINTED = (".0994", ".0701", ".0745", ".0812", ".0689", ".5145", ".0823")  # MSP, in the order of its table
MUTUAL_INFORMATION = (".9255", ".8145", ".8291", ".8954", ".8367", ".5231", ".8725")


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    start = next(at for at, line in enumerate(lines) if "MSP as printed" in line)
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[start + 2 : start + 9]]


def test_the_column_turned_the_right_way_is_one_less_it_exactly() -> None:
    found = rows()
    assert tuple(row[2] for row in found) == AS_PRINTED
    assert tuple(row[4] for row in found) == MUTUAL_INFORMATION
    for row in found:
        assert Decimal(row[2]) + Decimal(row[3]) == 1


def test_turned_round_it_beats_mutual_information_in_five_of_seven_rows() -> None:
    ahead = [Decimal(row[3]) > Decimal(row[4]) for row in rows()]
    assert sum(ahead) == 5 and "five of\nseven rows" in PAGE.read_text()
