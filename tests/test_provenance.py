"""The digest of code sees what runs and nothing else; collecting facts never fails a run."""

import ast
import sys
from pathlib import Path

import pytest

from ssl_sat import provenance
from ssl_sat.provenance import code_digests, digest_source

SOURCE = '''
"""Module."""
import os

class A:
    """Class."""
    x: int | None = None

    def f(self, n: int = 3) -> str:
        """Method."""
        return f"{n + 1:>4} {self.x!r}" + u"a"
'''


def test_golden_digest_is_the_same_in_every_python() -> None:
    assert digest_source(SOURCE) == "5dfc57a65d45c8c6"


def test_comments_docstrings_and_layout_do_not_count() -> None:
    other = SOURCE.replace('"""Module."""', "# a comment").replace('"""Method."""', '"""Another\n        text."""')
    other = other.replace("import os", "import os  # why\n\n").replace('u"a"', "'a'").replace("n + 1", "(n+1)")
    assert digest_source(other) == digest_source(SOURCE) == digest_source(other.encode())


@pytest.mark.parametrize(
    "old, new",
    [("n + 1", "n - 1"), ("= 3", "= 4"), (":>4", ":>5"), ("!r", "!s"), ("= None", "= 0"), ("import os", ""),
     ('u"a"', 'b"a"'), ("= None", "= True"), ("= None", "= ...")],
)  # fmt: skip
def test_code_counts(old: str, new: str) -> None:
    assert digest_source(SOURCE.replace(old, new)) != digest_source(SOURCE)


def test_none_true_and_one_are_different_constants() -> None:
    assert len({digest_source(f"x = {value}") for value in ("None", "True", "1", "1.0", "'1'", "[]", "()")}) == 7


def test_every_module_of_the_package_has_a_digest_of_its_own() -> None:
    folder = Path(provenance.__file__).parent
    modules = [f"ssl_sat.{path.stem}" for path in folder.glob("*.py") if ast.parse(path.read_bytes()).body[1:]]
    digests = code_digests(modules)
    assert list(digests) == sorted(set(modules))
    assert len(set(digests.values())) == len(modules)
    with pytest.raises(ModuleNotFoundError):
        code_digests(["ssl_sat.nowhere"])


def test_facts_name_versions_and_command() -> None:
    facts = provenance.collect()
    assert facts["argv"] == sys.argv
    assert facts["versions"]["numpy"].count(".") == 2


def test_git_output_need_not_be_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "git"
    git.write_bytes(b"#!/bin/sh\nprintf 'caf\\351'\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._git(tmp_path, "diff") == "caf\N{REPLACEMENT CHARACTER}"
