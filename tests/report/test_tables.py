"""One table in three forms: the same numbers, escaped for each."""

from __future__ import annotations

import csv
from pathlib import Path

from ssl_sat.report.ood_table import COLUMNS, headline, ood_rows
from ssl_sat.report.tables import Column, Estimate, write_tables

LAYOUT = (
    Column("name", "name"),
    Column("n", "n"),
    Column("auroc", "AUROC [95 %]"),
    Column("gain", "gain", signed=True),
    Column("p", "p", digits=4, floor=True),
    Column("never", "never there"),
)
ROWS = [
    {"name": "a_b & 50 %", "n": 5400, "auroc": Estimate(0.98765, 0.9, 1.0), "gain": 0.01, "p": 1e-9},
    {"name": "c|d", "n": 7, "auroc": Estimate(0.5, None, None), "gain": -0.25, "p": 0.5},
]


def test_three_forms_of_one_table(tmp_path: Path) -> None:
    paths = write_tables(tmp_path / "t", LAYOUT, ROWS, "Of 100 % {certain}.")
    assert [path.name for path in paths] == ["t.md", "t.csv", "t.tex"]
    md, _, tex = (path.read_text() for path in paths)
    assert "| a_b & 50 % | 5,400 | 0.988 [0.900, 1.000] | +0.010 | <0.0001 |" in md
    assert "| c\\|d | 7 | 0.500 | -0.250 | 0.5000 |" in md and "never" not in md + tex
    assert "a\\_b \\& 50 \\% & 5,400 & 0.988 [0.900, 1.000] & +0.010 & $<$0.0001 \\\\" in tex
    assert "\\caption{Of 100 \\% \\{certain\\}.}" in tex and "\\begin{tabular}{lrrrr}" in tex
    rows = list(csv.DictReader(paths[1].open()))
    assert rows[0]["auroc"] == "0.98765" and rows[0]["auroc_low"] == "0.9" and rows[1]["auroc_high"] == ""
    assert rows[0]["p"] == "1e-09" and rows[0]["never"] == "" and rows[1]["name"] == "c|d"


def metrics() -> dict[str, object]:
    def of(name: str, area: float, **more: object) -> dict[str, object]:
        own = {"auroc": area, "auroc_low": area - 0.02, "auroc_high": area + 0.02, "n_id": 100, "n_ood": 50,
               "aupr_out": 0.7, "aupr_out_low": 0.6, "aupr_out_high": 0.8, "orientation": "ok", **more}  # fmt: skip
        return {f"{name}_{key}": value for key, value in own.items()}

    gain = {"gain_over_probe": -0.1, "gain_over_probe_low": -0.2, "gain_over_probe_high": 0.0,
            "gain_over_probe_p": 0.01, "gain_over_probe_p_holm": 0.02, "gain_over_probe_detectable": 0.14}  # fmt: skip
    return {
        **of("shortcut_probe", 0.9),
        **of("mutual_information", 0.8, **gain, id_accepted=0.94, ood_rejected=0.3, passes=30),
        **of("mutual_information@novel", 0.85, **gain),
        **of("msp", 0.3, **{**gain, "orientation": "SUSPECT_ORIENTATION"}),
        "vim_left_out": "no last layer",
        "id_name": "own (test)", "ood_name": "other", "n_id": 100, "n_ood": 50, "mc_passes": 30, "alpha": 0.05,
        "id_accuracy": 0.9, "deployed_detector": "mutual_information",
    }  # fmt: skip


def test_rows_of_detectors_and_parts_with_the_probe_last() -> None:
    rows = ood_rows(metrics())
    assert [(row["detector"], row["part"]) for row in rows] == [
        ("msp", "all"), ("mutual information", "all"), ("mutual information", "novel"), ("shortcut probe", "all")
    ]  # fmt: skip
    assert {row["direction"] for row in rows} == {"OOD"} and [row["passes"] for row in rows] == [None, 30, 30, None]
    assert rows[1]["gain"] == Estimate(-0.1, -0.2, 0.0) and rows[1]["p"] == 0.02 and rows[1]["detectable"] == 0.14
    assert rows[1]["aupr_out"] == Estimate(0.7, 0.6, 0.8) and rows[1]["id_accepted"] == 0.94
    assert "gain" not in rows[3] and {column.key for column in COLUMNS} >= set(rows[0])


def test_the_command_says_what_counts() -> None:
    lines = headline(metrics())
    assert lines[0] == "own (test) (100) against other (50); accuracy in-distribution 0.9000; T = 30"
    assert lines[1].endswith("msp, over the probe -0.100  SUSPECT_ORIENTATION")
    assert lines[2] == "AUROC 0.8000 [0.7800, 0.8200]  mutual_information, over the probe -0.100 (novel 0.850)"
    assert (
        "at least 95% of images that are like those of val (found on own (test): 94.0%), OOD rejected: 30.0%"
        in lines[4]
    )
    seen = headline(
        metrics() | {"held_out_seen_in_pretraining": True, "mutual_information@novel_orientation": "SUSPECT"}
    )
    assert seen[2].endswith("(novel 0.850)  SUSPECT (novel)") and "unlabelled, not unseen" in seen[4]
    assert lines[-1] == "left out: vim: no last layer"
