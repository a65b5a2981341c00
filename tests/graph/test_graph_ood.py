"""Seeds joined, held-out classes averaged: against plain numbers from the stored scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from ssl_sat.graph import ood as graph_ood
from ssl_sat.graph.collect import Finished
from ssl_sat.graph.ood import _over_classes, chosen_line, joined, near_figures, near_ood, near_rows, ood_tables
from ssl_sat.graph.plan import Node
from ssl_sat.graph.summary import findings
from ssl_sat.graph.tables import Table
from ssl_sat.report.tables import Estimate

CLASSES = ("Crop", "Forest", "Lake", "River")
SHIFT = {"Crop": 2.0, "Forest": 1.0, "Lake": 1.5, "River": 0.5}


def node(name: str, stage: str, folder: Path, config: dict, **needs: str) -> Node:
    variables = {"seed": name[-1], "held_out": name.split("-")[1]}
    return Node(
        name, name.split("-")[0], stage, variables, [], needs, str(folder), "ab" * 32, {}, False, "done", config
    )


def evaluation(folder: Path, cls: str, seed: int) -> list[Finished]:
    model = node(f"finetune-{cls}-seed{seed}", "finetune", folder, {"held_out": [cls]})
    own = node(f"ood_eval-{cls}-seed{seed}", "ood_eval", folder / f"{cls}{seed}", {"tier": "held_out"}, model=model.id)
    rng = np.random.default_rng([seed, *cls.encode()])
    inside, outside = rng.normal(0, 1, (3, 200)), rng.normal(0, 1, (3, 80))
    outside[0] += SHIFT[cls]
    outside[1] += 0.2
    columns = {"id": [f"p{k}" for k in range(280)], "set": ["id"] * 200 + ["ood"] * 80, "class": [cls] * 280}
    names = ("knn", "msp", "shortcut_probe")
    columns |= {name: np.concatenate([inside[k], outside[k]]) for k, name in enumerate(names)}
    (folder / f"{cls}{seed}").mkdir()
    pq.write_table(pa.table(columns), folder / f"{cls}{seed}" / "scores.parquet")
    metrics = {"n_id": 200, "n_ood": 80, **{f"{name}_fpr_id_at_95tpr_ood": 0.5 for name in names}}
    return [Finished(model, {}, {}), Finished(own, metrics, {})]


@pytest.fixture
def items(tmp_path: Path) -> list[Finished]:
    return [item for cls in CLASSES for seed in (0, 1) for item in evaluation(tmp_path, cls, seed)]


def area(folder: Path, cls: str, name: str) -> float:
    tables = [pq.read_table(folder / f"{cls}{seed}" / "scores.parquet") for seed in (0, 1)]
    return float(np.mean([roc_auc_score(np.arange(280) >= 200, table[name].to_numpy()) for table in tables]))


def test_seeds_are_joined_and_classes_averaged(items: list[Finished], tmp_path: Path) -> None:
    found = joined(items)
    assert [(one.name, one.held_out, len(one.seeds)) for one in found] == [(f"ood_eval-{c}", c, 2) for c in CLASSES]
    for one in found:
        value = one.rows["knn"]["auroc"]
        assert isinstance(value, Estimate) and value.value == pytest.approx(area(tmp_path, one.held_out, "knn"))
        assert value.low < value.value < value.high  # type: ignore[operator]
        gain = value.value - area(tmp_path, one.held_out, "shortcut_probe")
        assert one.rows["knn"]["gain"].value == pytest.approx(gain)  # type: ignore[union-attr]
    arms = near_ood(found)
    assert list(arms) == ["ood_eval"]
    rows = near_rows("ood_eval", arms["ood_eval"])
    assert [row["detector"] for row in rows] == ["knn", "msp", "shortcut probe"]
    areas = [area(tmp_path, cls, "knn") for cls in CLASSES]
    half = t.ppf(0.975, 3) * np.std(areas, ddof=1) / 2
    ends = max(0, np.mean(areas) - half), min(1, np.mean(areas) + half)
    assert rows[0]["auroc"] == pytest.approx((np.mean(areas), *ends))
    assert rows[0]["worst"] == f"River {min(areas):.3f}" and str(rows[0]["best"]).startswith("Crop")
    assert rows[0]["seeds"] == 2 and rows[0]["classes"] == 4 and "gain" not in rows[2]


def test_an_interval_over_classes_stays_where_values_can_be() -> None:
    high, gain = _over_classes([0.999, 0.9, 0.999]), _over_classes([-0.99, -0.7, -0.99], least=-1.0)
    half = t.ppf(0.975, 2) * np.std([0.999, 0.9, 0.999], ddof=1) / np.sqrt(3)
    assert (high.high, gain.low) == (1.0, -1.0) and high.low == pytest.approx(high.value - half)


def test_a_score_that_is_turned_round_is_named_over_seeds_too(items: list[Finished], monkeypatch) -> None:
    assert {row["orientation"] for one in joined(items) for row in one.rows.values() if row["detector"] == "knn"} == {
        "ok"
    }
    turned = {name: [(b, a) for a, b in pairs] for name, pairs in graph_ood._scores(joined(items)[0].seeds).items()}
    monkeypatch.setattr(graph_ood, "_scores", lambda members: turned)
    assert joined(items)[0].rows["knn"]["orientation"] == "SUSPECT_ORIENTATION"


def test_the_summary_tells_the_mean_over_classes_and_not_each_class(items: list[Finished]) -> None:
    made = [Table(*table) for table in ood_tables(items)]
    each = [{"runs": f"ood_eval-{cls}", "detector": "knn", "auroc": 0.5, "gain_over_probe": 0.1} for cls in CLASSES]
    made.append(Table("ood", "", "", (), [*each, {**each[0], "runs": "far"}]))
    near, far = findings(made)
    best = near_rows("ood_eval", near_ood(joined(items))["ood_eval"])[0]
    assert near.startswith("ood_eval: over 4 classes held out in turn, of 2 detectors knn has the largest mean AUROC")
    assert f"worst class {best['worst']}" in near and far.startswith("far: knn")


def test_a_choice_is_made_on_other_classes_than_it_is_reported_on(items: list[Finished], tmp_path: Path) -> None:
    line = chosen_line("arm", near_ood(joined(items))["ood_eval"])
    assert "chosen on Crop, Lake: knn" in line and "other classes (Forest, River)" in line
    expected = np.mean([area(tmp_path, cls, "knn") for cls in ("Forest", "River")])
    assert f"AUROC {expected:.3f}" in line


def test_tables_and_figure_of_an_experiment(items: list[Finished], tmp_path: Path) -> None:
    (name, _, _, columns, rows), (near, _, caption, _, near_table) = ood_tables(items)
    assert (name, near) == ("ood_joined", "near_ood") and len(rows) == 4 * 3 and len(near_table) == 3
    assert {column.key for column in columns} <= {*rows[0], "gain", "p", "detectable"} and "chosen on" in caption
    drawn = near_figures(tmp_path / "figures", items, demo=False)
    assert list(drawn) == ["near_ood"] and drawn["near_ood"].read_bytes()[:4] == b"\x89PNG"
    assert ood_tables([]) == [] and near_figures(tmp_path, [], demo=False) == {}
