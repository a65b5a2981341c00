"""Figures with the same bytes every time, projections that keep neighbours, pages that load nothing."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from ssl_sat.report import figures, map_figures, maps, projection, summary_figures
from ssl_sat.report.faithful import faithfulness
from ssl_sat.report.html import Page
from ssl_sat.spec import MissingInput, UserError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(-1, 3, 90)
CLASSES = ("water", "forest & <field>", "town")
PLACES = np.stack([LABELS, LABELS**2], 1) + RNG.normal(0, 0.1, (90, 2))
OUTSIDE = np.arange(90) < 20
POINTS = maps.Points(
    features_ND=RNG.normal(0, 1, (90, 4)), ood_N=OUTSIDE, group_N=np.where(OUTSIDE, 4, LABELS + 1),
    groups=(("a", None), *(("a", name) for name in CLASSES), ("b", None)), ids=("i",) * 90, labels=(None,) * 90,
    said=("water",) * 90, right=(None,) * 90, names=("a", "b"), parts=(),
)  # fmt: skip
MAPS = [
    maps.Map(name, f"{name} $x$ <b>", PLACES.astype(np.float32), faithfulness(POINTS.features_ND, PLACES))
    for name in ("untrained", "finetuned")
]
LINES = [
    summary_figures.Line("first − second $a_b$", 0.1, 0.05, 0.15, (0.08, 0.12)),
    summary_figures.Line("x" * 90, -0.1, None, None, (-0.1,)),
]
FIGURES: dict[str, Callable[[bool], Figure]] = {
    "panels": lambda demo: map_figures.panels(POINTS, MAPS, "umap", demo=demo),
    "neighbours": lambda demo: map_figures.neighbours_kept(MAPS, demo=demo),
    "intervals": lambda demo: summary_figures.intervals(LINES, xlabel="accuracy", zero=True, demo=demo),
    "confusion": lambda demo: figures.confusion(np.array([[5, 1, 0], [0, 9, 2], [0, 0, 0]]), CLASSES, demo=demo),
    "view_grid": lambda demo: figures.view_grid(
        np.full((2, 3, 8, 8, 3), 0.5),
        rows=["one", "a name that is long, very long"],
        means_RKC=np.arange(24.0).reshape(2, 3, 4),
        bands=list("abcd"),
        title="recipe\noperations",
        demo=demo,
    ),
    "training_curves": lambda demo: figures.training_curves(
        {"loss": {"train": ([0, 1], [3.0, 2.9])}, "lr": {"lr": ([0, 1], [1, 0])}}, floors={"loss": 2.863}, demo=demo
    ),
}


def texts(figure: Figure) -> list[str]:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        legends += [text.get_text() for text in axes.texts]
        legends += [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []
    return legends + [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("name", FIGURES)
def test_same_bytes_and_the_stamp(name: str, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in figures.save(FIGURES[name](False), tmp_path / "a.b")]
    again = [path.read_bytes() for path in figures.save(FIGURES[name](False), tmp_path / "a.b")]
    assert first == again
    assert b"CreationDate" not in first[1] and b"<dc:date>" not in first[2]
    assert [path.suffix for path in figures.save(FIGURES[name](False), tmp_path / "a.b")] == [".png", ".pdf", ".svg"]
    assert "DEMO DATA" not in texts(FIGURES[name](False))
    assert "DEMO DATA" in texts(FIGURES[name](True))
    plain = np.asarray(Image.open(tmp_path / "a.b.png").convert("RGB")).astype(int)
    stamped = np.asarray(Image.open(figures.save(FIGURES[name](True), tmp_path / "s")[0]).convert("RGB")).astype(int)
    assert plain.shape == stamped.shape
    assert 0.02 < (np.abs(plain - stamped).sum(-1) > 30).mean() < 0.4  # the stamp covers much, and hides nothing


def test_a_drawn_figure_saves_the_same_bytes_twice(tmp_path: Path) -> None:
    figure = FIGURES["confusion"](False)
    first = [path.read_bytes() for path in figures.save(figure, tmp_path / "a")]
    assert [path.read_bytes() for path in figures.save(figure, tmp_path / "a")] == first


def test_legends_say_counts_and_intervals() -> None:
    found = texts(FIGURES["panels"](False))
    assert f"water ({int((LABELS[20:] == 0).sum())})" in found
    assert "b (20)" in found and any(text.startswith("no single class") for text in found)
    assert {"5", "1", "9", "2"} <= set(texts(FIGURES["confusion"](False)))


def clusters(samples: int = 150) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat([0, 1, 2], samples // 3)
    centres = np.random.default_rng(1).normal(0, 3, (3, 80))
    noise = np.random.default_rng(2).normal(0, 1, (samples, 80))
    return (centres[labels] + noise).astype(np.float32), labels


def test_projection_repeats_and_keeps_clusters() -> None:
    x_ND, labels_N = clusters()
    first, second = (projection.project(x_ND, seed=3) for _ in range(2))
    assert np.array_equal(first, second) and first.shape == (150, 2)
    near = NearestNeighbors(n_neighbors=6).fit(first).kneighbors(first)[1][:, 1:]
    assert (labels_N[near] == labels_N[:, None]).mean() > 0.99
    mixed = first[np.random.default_rng(0).permutation(150)]
    kept, lost = (faithfulness(x_ND, xy).trustworthiness for xy in (first, mixed))
    assert kept > 0.9 and lost == pytest.approx(0.5, abs=0.1)
    with pytest.raises(UserError, match="at least 10"):
        projection.project(x_ND[:9], seed=0)


def test_components_and_neighbours_equal_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    x_ND, _ = clusters()
    own, theirs = projection.principal_components(x_ND, 5), PCA(5, svd_solver="full").fit_transform(x_ND.astype(float))
    np.testing.assert_allclose(np.abs(own), np.abs(theirs), atol=1e-3)
    near, distance = projection.cosine_neighbours(own, 7)
    expected = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(own).kneighbors(own)
    assert np.array_equal(near[:, 0], np.arange(150))
    np.testing.assert_allclose(distance, np.clip(expected[0], 0, None), atol=1e-6)
    assert (near == expected[1]).mean() > 0.99


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def page(tmp_path: Path, demo: bool) -> Page:
    made = Page("Results <script>alert(1)</script>", "lead & more", demo=demo)
    made.heading("Accuracy", new_page=True)
    made.text("one\n\ntwo <b>")
    made.warning("beware")
    made.table(
        [{"encoder": "<img src=x>", "accuracy": 0.98765, "n": 5400}, {"encoder": 'v"t', "se": None}], caption="c"
    )
    made.facts({"seed": 0, "demo": demo})
    Image.new("RGB", (4, 4)).save(tmp_path / "dot.png")
    made.image(tmp_path / "dot.png", alt='a "dot"', caption="<dot>")
    return made


def test_everything_is_escaped_and_inside(tmp_path: Path) -> None:
    text = page(tmp_path, demo=False).render()
    parsed = Parsed(text)
    names = [tag for tag, _ in parsed.tags]
    assert names.count("script") == 1 and "b" not in names
    links = [attrs["href"] for tag, attrs in parsed.tags if tag == "link"]
    assert links == ["data:,"]  # an icon of nothing, or the browser would ask for one
    script = text[text.rindex("<script>") + 8 : text.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    images = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert len(images) == 1 and images[0]["src"].startswith("data:image/png;base64,")  # type: ignore[union-attr]
    assert images[0]["alt"] == 'a "dot"'
    assert not any(word in text for word in ("http:", "https:", "url(", "@import"))
    assert {"0.9877", "5,400", "–", "<img src=x>", 'v"t', "two <b>"} <= set(parsed.data)
    assert text == page(tmp_path, demo=False).render()
    assert "DEMO DATA" not in text


def test_demo_is_said_on_the_screen_and_on_every_printed_page(tmp_path: Path) -> None:
    text = page(tmp_path, demo=True).write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>DEMO DATA: Results" in text
    assert '<div class="banner">DEMO DATA' in text and '<div class="watermark">DEMO DATA' in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert ".banner { position: fixed;" in style and ".watermark { position: fixed;" in style
    assert '@top-center { content: "DEMO DATA' in style
    assert not (tmp_path / "page.html.partial").exists()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no image"):
        Page("x").image(tmp_path / "absent.png", alt="")
    with pytest.raises(ValueError, match="PNG, JPEG"):
        Page("x").image(tmp_path / "a.svg", alt="")
    with pytest.raises(ValueError, match="level 2 or 3"):
        Page("x").heading("y", level=1)


def test_importing_the_packages_stays_cheap() -> None:
    names = ("report", "report.html", "report.figures", "report.projection", "report.maps", "report.__main__", "ood")
    modules = ", ".join(f"ssl_sat.{name}" for name in names)
    code = f"import sys, {modules}, ssl_sat.ood.spec, ssl_sat.evaluation, ssl_sat.evaluation.predict\n"
    heavy = "{'torch', 'umap', 'matplotlib', 'sklearn', 'numba'}"
    result = subprocess.run([sys.executable, "-c", code + f"print({heavy} & set(sys.modules))"], capture_output=True)
    assert result.stdout.decode().strip() == "set()", result
