"""Pages that say which test holds a claim name tests that exist; the museum's page names every exhibit."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FEWEST = {"traps.md": 31, "trust.md": 25}


def named(page: str) -> set[tuple[str, str]]:
    """(file, test) of every test that a page of docs/ names."""
    return set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text()))


@pytest.mark.parametrize("page", FEWEST)
def test_every_test_named_exists(page: str) -> None:
    assert len(named(page)) >= FEWEST[page]
    for file, name in sorted(named(page)):
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_every_exhibit_is_on_the_page() -> None:
    exhibits = {f"tests/claims/{path.name}" for path in (ROOT / "tests" / "claims").glob("test_*.py")}
    assert {file for file, _ in named("trust.md")} >= exhibits
