"""The table of features in docs/finetuning.md: every line of configuration in it composes to a valid spec."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ssl_sat.compare import CompareSpec
from ssl_sat.config import compose
from ssl_sat.finetune import FinetuneSpec

PAGE = Path(__file__).resolve().parent.parent / "docs" / "finetuning.md"
CHOSEN = ("encoder", "imbalance", "optim", "augment", "normalisation", "stem", "trainer", "init")
FOLDER = "data=imagefolder"
NEEDED = {
    "phases.steps.all": "phases=full",
    "phases.steps.head": "phases=study",
    "data.split=folders": FOLDER,
    "data.labels=": FOLDER,
    "data.label_": FOLDER,
    "data.missing": FOLDER,
}


def lines() -> list[tuple[str, list[str]]]:
    """(feature, overrides) for every span of configuration; a bare word after `encoder=cnn` is another encoder."""
    found = []
    table = PAGE.read_text().split("## Every feature and its line")[1].split("\n## ")[0]
    for row in re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE):
        key = ""
        for span in re.findall(r"`([^`]+)`", row[1]):
            words = shlex.split(span)
            if words[0] == "python":
                words = words[4:] if words[:4] == ["python", "-m", "ssl_sat.finetune", "-m"] else []
            words = [word for word in words if "<" not in word or "?P<" in word]
            if len(words) == 1 and re.fullmatch(r"[a-z_0-9]+", words[0]) and key in CHOSEN:
                words = [f"{key}={words[0]}"]
            if words and all(re.match(r"[a-z_0-9.]+=", word) for word in words):
                key = words[0].partition("=")[0]
                found.append((row[0], words))
    return found


def batches() -> list[list[str]]:
    """All overrides in as few commands as hold them: lines that set the same key, or need another base, are apart."""
    packed: list[list[str]] = []
    for feature, words in lines():
        words = [word.split(",")[0] if feature == "sweeps" else word for word in words]
        text = " ".join(words)
        stated = {word.partition("=")[0] for word in words}
        base = {given for part, given in NEEDED.items() if part in text and given.partition("=")[0] not in stated}
        own = [*sorted(base), *words]
        keys = {word.partition("=")[0] for word in own}
        fitting = (b for b in packed if not any(_clash(w.partition("=")[0], k) for w in b for k in keys))
        batch = next(fitting, None)
        if batch is None:
            packed.append(own)
        else:
            batch += own
    return packed


def _clash(one: str, other: str) -> bool:
    """Whether two keys set one thing, or one chooses the group of the other."""
    return one.partition(".")[0] == other.partition(".")[0]


@pytest.mark.parametrize("overrides", batches(), ids=lambda words: words[0])
def test_every_line_is_valid(overrides: list[str]) -> None:
    assert isinstance(compose("finetune", FinetuneSpec, overrides), FinetuneSpec)


def test_the_table_is_long_and_compare_takes_what_the_page_says() -> None:
    assert len(lines()) > 60
    spec = compose("compare", CompareSpec, ["sensitivity=phases.steps.all.lr", "runs=outputs/finetune/*"])
    assert spec.runs == ("outputs/finetune/*",)
    assert compose("compare", CompareSpec, ["where=image_size=16"]).where == ("image_size=16",)
    several = compose("compare", CompareSpec, ["where=[encoder.name=cnn,data.name=eurosat_rgb]", "runs=[a*,b]"])
    assert several.where == ("encoder.name=cnn", "data.name=eurosat_rgb") and several.runs == ("a*", "b")
