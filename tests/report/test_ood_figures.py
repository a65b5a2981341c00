"""Figures of an OOD evaluation: what they say, and the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_sat.ood.metrics import aupr_out
from ssl_sat.ood.score import Scores
from ssl_sat.report import figures, ood_figures

RNG = np.random.default_rng(0)
PAIRS = {
    name: (Scores(name, RNG.normal(0, 1, 120)), Scores(name, RNG.normal(shift, 1, 60)))
    for name, shift in (("msp", 0.5), ("mutual_information", 1.5), ("shortcut_probe", 1.0))
}
WRONG = RNG.random(120) < 0.1
PICTURES = RNG.random((3, 8, 8, 3)).astype(np.float32)
CELLS = ood_figures.Cells(PICTURES, ["forest", None, "lake"], ["Forest", "Forest", "Lake"])
CURVE = np.linspace(0.9, 0.5, 6)[:, None] + np.array([0, -0.02, 0.02])


def fooled(demo: bool) -> Any:
    rows = [ood_figures.FooledRow(name, CELLS, CELLS, (0.25, 0.2, 0.3) if name == "msp" else None) for name in PAIRS]
    return ood_figures.fooled(rows, alpha=0.05, title="a against b", demo=demo)


FIGURES = {
    "histogram": lambda demo: ood_figures.score_histograms(PAIRS, {"msp": 1.0}, demo=demo),
    "roc": lambda demo: ood_figures.roc_curves(PAIRS, title="a against b", demo=demo),
    "precision_recall": lambda demo: ood_figures.precision_recall(PAIRS, demo=demo),
    "risk": lambda demo: ood_figures.risk_coverage(PAIRS, WRONG, demo=demo),
    "fooled": fooled,
    "curves": lambda demo: ood_figures.corruption_curves(
        {"haze": {"accuracy": CURVE}, "blur": {"accuracy": CURVE}}, ylabel="accuracy", demo=demo
    ),
    "gallery": lambda demo: ood_figures.corruption_gallery(PICTURES[None], ["haze"], [[0.1, 0.2]], demo=demo),
    "near": lambda demo: ood_figures.near_ood(
        {"msp": {"a": 0.7, "b": 0.8}, "knn": {"a": 0.9, "b": 0.8}, "shortcut_probe": {"a": 0.95, "b": 0.9}}, demo=demo
    ),
}


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [item.get_text() for item in figure.findobj(Text) if item.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_stamped_on_demo_data(name: str) -> None:
    assert "DEMO DATA" in texts(FIGURES[name](True)) and "DEMO DATA" not in texts(FIGURES[name](False))


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    first = figures.save(FIGURES["near"](False), tmp_path / "a", dpi=60)[0].read_bytes()
    assert figures.save(FIGURES["near"](False), tmp_path / "b", dpi=60)[0].read_bytes() == first


def test_legends_order_detectors_and_give_numbers() -> None:
    said = [text for text in texts(FIGURES["roc"](False)) if "[" in text and text[-1] == "]"]
    assert [text.split("  ")[0] for text in said if "  " in text] == ["mutual information", "shortcut probe", "msp"]
    area = aupr_out(*PAIRS["msp"])
    assert f"msp  {area:.3f}" in texts(FIGURES["precision_recall"](False))
    inside, outside = PAIRS["msp"]
    shares = (inside.values <= 1.0).mean(), (outside.values > 1.0).mean()
    assert f"ID accepted {shares[0]:.0%}\nOOD rejected {shares[1]:.0%}" in texts(FIGURES["histogram"](False))


def test_pictures_say_own_and_predicted_class() -> None:
    found = texts(FIGURES["fooled"](False))
    assert "forest\n→ Forest" in found and "\n→ Forest" in found
    assert any(text.endswith("25% [20%, 30%]") for text in found)
    assert texts(FIGURES["near"](False))[-1] and "0.85" in texts(FIGURES["near"](False))  # the mean of knn, first row
