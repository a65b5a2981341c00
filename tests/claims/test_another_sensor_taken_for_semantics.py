"""Published mistake: another sensor's pictures are told apart, and it is read as knowledge of what is on the ground."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest

from ssl_sat.ood_eval import OOD_EVAL
from ssl_sat.spec import UserError


def test_the_classes_are_the_same_and_the_network_hardly_trained_yet_the_score_is_high(
    chain: SimpleNamespace,
) -> None:
    metrics = chain.evaluated.metrics
    assert metrics["id_accuracy"] < 0.5  # three classes
    assert metrics["mahalanobis_auroc"] > 0.9  # of the same three classes, seen with finer grain


def test_the_probe_without_a_network_stands_beside_it_and_takes_the_credit(chain: SimpleNamespace) -> None:
    metrics = chain.evaluated.metrics
    assert metrics["shortcut_probe_auroc"] >= metrics["mahalanobis_auroc"]
    for name in ("mahalanobis", "msp"):
        gain = metrics[f"{name}_auroc"] - metrics["shortcut_probe_auroc"]
        assert metrics[f"{name}_gain_over_probe"] == pytest.approx(gain, abs=1e-12)
        assert metrics[f"{name}_gain_over_probe"] <= 0 and metrics[f"{name}_gain_over_probe_high"] < 0.05
    lines = OOD_EVAL.headline(metrics)
    own = next(line for line in lines if "mahalanobis" in line)
    assert f"over the probe {metrics['mahalanobis_gain_over_probe']:+.3f}" in own
    assert any(line.endswith("  shortcut_probe") for line in lines)


def test_no_table_is_without_the_probe(chain: SimpleNamespace) -> None:
    rows = list(csv.DictReader((chain.evaluated.path / "table.csv").read_text().splitlines()))
    assert [row["detector"] for row in rows] == ["mahalanobis", "msp", "shortcut probe"]
    assert [float(row["auroc"]) for row in rows][-1] == chain.evaluated.metrics["shortcut_probe_auroc"]
    assert all(row["gain"] and row["gain_low"] and row["gain_high"] for row in rows[:2])


def test_pictures_decoded_another_way_are_refused(chain: SimpleNamespace, make) -> None:
    root = chain.folder / "other"
    other = make(
        "pack", "data=imagefolder", f"data.root={root}", "data.size_px=16", "data.recompress=jpeg75",
        "data.split=none", f"outputs={chain.outputs}", "workers=1",
    )  # fmt: skip
    given = (f"outputs={chain.outputs}", f"model={chain.tuned.path}", "ood=imagefolder", "device=cpu")
    with pytest.raises(UserError, match="recompress"):
        make("ood_eval", *given, f"ood_pack={other.path}")
