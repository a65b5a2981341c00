"""Which maps the page has room for, and which it names as left out."""

from pathlib import Path

from ssl_sat.graph import sections
from ssl_sat.graph.collect import Finished
from ssl_sat.graph.plan import Node
from ssl_sat.report.map_page import PageMap


class Lines:
    """A page that keeps headings and texts, and takes the rest."""

    def __init__(self) -> None:
        self.headings: list[str] = []
        self.texts: list[str] = []

    def heading(self, text, *_, **__):
        self.headings.append(text)

    def text(self, text, *_, **__):
        self.texts.append(text)

    def map(self, *_, **__):
        pass

    table = image = map


def drawn_map(folder: Path, name: str, points: int) -> Finished:
    artifact = folder / name
    artifact.mkdir()
    (artifact / "map.json").touch()
    node = Node(
        name, name, "umap_report", {}, [], {}, str(artifact), f"{name:_<64}", {}, False, "done", {"method": "umap"}
    )
    return Finished(node, {"n_id": points - 100, "n_ood": 100, "states": "start,finetuned", "neighbours": 15}, {})


def test_maps_of_too_many_points_and_maps_without_room_are_named_and_no_others(tmp_path, monkeypatch):
    sizes = {"first": 500, "huge": 30_000, "second": 600, "third": 700}
    items = [drawn_map(tmp_path, name, points) for name, points in sizes.items()]
    monkeypatch.setattr(sections, "read_map", lambda folder: PageMap({"name": folder.name}, {}))
    monkeypatch.setattr(sections, "within", lambda maps, most: (maps[:2], maps[2:]))  # room for two
    page = Lines()
    sections.maps(page, items)
    assert page.headings == ["Maps of features", "UMAP of first", "UMAP of second"]
    assert [line.split(":")[0] for line in page.texts[1:]] == ["No room for huge", "No room for third"]
