"""The published lists of EuroSAT, random and geographic, for both forms of the data set."""

from pathlib import Path
from typing import Any

import pytest
from fakes import eurosat

from ssl_sat.data import SOURCES
from ssl_sat.spec import MissingInput, UserError

FORMS = {"eurosat_rgb": eurosat.write_rgb, "eurosat_ms": eurosat.write_ms}
FIRST = {"random": "eurosat-train.txt", "spatial": "eurosat-spatial-train.txt"}


@pytest.mark.parametrize("split", FIRST)
@pytest.mark.parametrize("form", FORMS)
def test_lists_give_the_splits_and_are_asked_for_when_missing(form: str, split: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path / "data")
    config: dict[str, Any] = {"name": form, "root": str(tmp_path / "data"), "splits_dir": str(tmp_path / "lists")}

    def listing() -> Any:
        source: Any = SOURCES.build(SOURCES.parse({**config, "split": split}))
        return source.listing()

    with pytest.raises(MissingInput, match=rf"(?s)no {FIRST[split]}.*splits_dir.*\n"):
        listing()
    wanted = eurosat.write_lists(tmp_path / "lists", split)
    found = listing()
    assert {name: sorted(ref.id for ref in found.refs if ref.split == name) for name in wanted} == {
        name: sorted(members) for name, members in wanted.items()
    }
    other = "spatial" if split == "random" else "random"
    with pytest.raises(MissingInput, match=f"no {FIRST[other]}"):
        SOURCES.build(SOURCES.parse({**config, "split": other})).listing()
    with open(tmp_path / "lists" / FIRST[split], "a") as file:
        file.write("\nForest_999999.jpg\n")
    with pytest.raises(UserError, match=r"1 of .* images .* Forest_999999"):
        listing()
