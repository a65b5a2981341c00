"""Tables of an experiment: tidy, over seeds, paired; what each number is about; each beside its fingerprint."""

import csv
import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import scipy.stats

from ssl_sat.graph.about import about
from ssl_sat.graph.collect import Finished
from ssl_sat.graph.plan import Node, Plan
from ssl_sat.graph.summary import draw, findings
from ssl_sat.graph.tables import Table, numbers, tables, write
from ssl_sat.report.tables import Estimate

ACCURACY = {"scratch": (0.80, 0.82, 0.78), "simclr": (0.84, 0.85, 0.83)}
AUROC = {"scratch": (0.70, 0.72, 0.74), "simclr": (0.90, 0.94, 0.92)}


def node(ident, stage, needs=None, config=None, variables=None, inputs=None, synthetic=False):
    return Node(
        ident, ident.partition("-")[0], stage, variables or {}, [], needs or {}, f"outputs/{stage}/{ident}",
        f"{abs(hash(ident)) % 16**8:08x}{ident:_<56}"[:64], inputs or {}, synthetic, "done", config or {},
    )  # fmt: skip


@pytest.fixture
def items():
    pack = Finished(node("pack", "pack", config={"data": {"name": "eurosat_rgb"}}), {"patches": 900}, {})
    before = node("pretrain", "pretrain", {"pack": "pack"}, {"seed": 0})
    made = [pack, Finished(before, {"epochs": 50, "patches": 4000, "bands": "B04,B03,B02"}, {})]
    for start in ("scratch", "simclr"):
        for seed in (0, 1, 2):
            needs = {"pack": "pack"} | ({"init": "pretrain"} if start == "simclr" else {})
            variables = {"start": start, "seed": str(seed)}
            config = {"seed": seed, "subset": {"fraction": 0.1}}
            tuned = node(f"finetune-{start}-seed{seed}", "finetune", needs, config, variables, {"data": "d"})
            value = ACCURACY[start][seed]
            metrics = {
                "test_accuracy": value, "test_accuracy_low": value - 0.03, "test_accuracy_high": value + 0.03,
                "test_n": 5400, "test_macro_f1": value, "epochs": 20, "train_patches": 270,
                "initialisation": "simclr on eurosat_rgb" if start == "simclr" else "scratch", "overfitting": False,
            }  # fmt: skip
            made.append(Finished(tuned, metrics, {"seconds": 60.0}))
            own = node(f"ood_eval-{start}-seed{seed}", "own_eval", {"model": tuned.id}, {"seed": 0}, variables,
                       {"data": "d", "ood": "o"})  # fmt: skip
            area = AUROC[start][seed]
            metrics = {"n_id": 5400, "n_ood": 294, "id_data": "eurosat_rgb", "ood_data": "ucmerced"}
            for name, auroc in (("msp", area), ("shortcut_probe", 0.8)):
                metrics |= {
                    f"{name}_auroc": auroc,
                    f"{name}_auroc_low": auroc - 0.02,
                    f"{name}_auroc_high": auroc + 0.02,
                }
                metrics |= {f"{name}_n_id": 5400, f"{name}_n_ood": 294}
            made.append(Finished(own, {**metrics, "msp_gain_over_probe": area - 0.8}, {}))
    return made


def by_name(items):
    return {table.name: table for table in tables(items)}


def test_results_over_seeds_with_their_interval_and_budget(items):
    rows = {row["runs"]: row for row in by_name(items)["results"].rows}
    assert list(rows) == ["finetune-scratch", "finetune-simclr"]
    row = rows["finetune-simclr"]
    values = ACCURACY["simclr"]
    low, high = scipy.stats.t.interval(0.95, 2, sum(values) / 3, scipy.stats.sem(values))
    assert row["test_accuracy"] == pytest.approx(Estimate(sum(values) / 3, low, high), rel=1e-9)
    assert (row["seeds"], row["n"], row["interval"], row["data"]) == (3, 5400, "t over 3 seeds", "eurosat_rgb")
    assert row["budget"] == "pretraining 50 × 4,000 patches; fine-tuning 20 × 270 labels (0.1 of the labels)"
    assert rows["finetune-scratch"]["budget"] == "fine-tuning 20 × 270 labels (0.1 of the labels)"
    assert row["initialisation"] == "simclr on eurosat_rgb"
    prints = [item.short for item in items if item.node.id.startswith("finetune-simclr")]
    assert row["fingerprints"] == " ".join(prints)


def test_one_seed_shows_the_interval_over_patches(items):
    kept = [item for item in items if item.node.variables.get("seed") in (None, "1")]
    (row, _) = by_name(kept)["results"].rows
    assert row["test_accuracy"] == pytest.approx(Estimate(0.82, 0.79, 0.85))
    assert (row["seeds"], row["interval"]) == (1, "patches, one seed")


def test_detectors_stand_beside_the_probe(items):
    rows = by_name(items)["ood"].rows
    assert [row["detector"] for row in rows] == ["msp", "shortcut probe"] * 2
    assert rows[0]["n"] == 5400 + 294 and rows[0]["ood_data"] == "ucmerced"
    assert rows[2]["auroc"].value == pytest.approx(0.92)
    gains = [value - 0.8 for value in AUROC["simclr"]]
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(gains)
    assert rows[2]["gain_over_probe"] == pytest.approx(Estimate(0.12, 0.12 - half, 0.12 + half), rel=1e-6)
    assert rows[1]["gain_over_probe"] is None


def test_pairs_share_a_seed(items):
    rows = {row["metric"]: row for row in by_name(items)["paired"].rows}
    assert list(rows) == ["test_accuracy", "test_macro_f1", "msp_auroc", "shortcut_probe_auroc"]
    row = rows["test_accuracy"]
    assert (row["first"], row["second"], row["seeds"]) == ("finetune-simclr", "finetune-scratch", 3)
    expected = scipy.stats.ttest_rel(ACCURACY["simclr"], ACCURACY["scratch"])
    assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert row["difference"] == pytest.approx(Estimate(0.04, interval.low, interval.high), rel=1e-6)
    assert len(row["fingerprints"].split()) == 6
    assert rows["shortcut_probe_auroc"]["p"] is None  # no spread, no test


def test_probes_stand_apart_and_are_paired_where_starts_differ(items):
    values = {"scratch": (0.50, 0.52, 0.51), "simclr": (0.60, 0.61, 0.62)}
    probed = []
    for item in items:
        start, seed = (item.node.variables.get(key) for key in ("start", "seed"))
        if item.node.stage == "finetune":
            own = {"start_knn_accuracy": values[start][int(seed)], "start_linear_probe_accuracy": 0.7}
            item = dataclasses.replace(item, metrics={**item.metrics, **own, "tuned_knn_accuracy": 0.8})
        probed.append(item)
    found = by_name(probed)
    assert "probes" not in by_name(items)
    row = {row["runs"]: row for row in found["probes"].rows}["finetune-simclr"]
    half = scipy.stats.t.ppf(0.975, 2) * scipy.stats.sem(values["simclr"])
    assert row["start_knn_accuracy"] == pytest.approx(Estimate(0.61, 0.61 - half, 0.61 + half), rel=1e-9)
    assert row["tuned_knn_accuracy"].value == pytest.approx(0.8)
    assert (row["tuned_linear_probe_accuracy"], row["n"]) == (None, 5400)
    paired = {row["metric"]: row for row in found["paired"].rows}
    assert paired["start_knn_accuracy"]["difference"].value == pytest.approx(0.1)
    assert "start_linear_probe_accuracy" not in paired  # the same for both: nothing to compare
    assert any(
        line.startswith("finetune-simclr − finetune-scratch: start knn accuracy") for line in findings(tables(probed))
    )


def test_probes_of_several_labels_are_mean_average_precision(items):
    several = [
        dataclasses.replace(item, metrics={"test_map_macro": 0.6, "start_knn_map_macro": 0.4, "test_n": 90})
        for item in items
        if item.node.stage == "finetune"
    ]
    row = by_name(several)["probes"].rows[0]
    assert row["start_knn_accuracy"].value == pytest.approx(0.4) and row["tuned_knn_accuracy"] is None


def test_what_was_shown_is_said_first():
    def row(first, verdict):
        return {
            "metric": "test_accuracy",
            "first": first,
            "second": "z",
            "difference": 0.1,
            "seeds": 3,
            "verdict": verdict,
        }

    paired = Table("paired", "", "", (), [row("a", "not shown"), row("b", "b is better")])
    assert [line[0] for line in findings([paired])] == ["b", "a"]


def test_sentences_say_what_was_shown_and_what_not(items):
    lines = findings(tables(items))
    assert lines[0].startswith("finetune-simclr − finetune-scratch: test accuracy +0.040 [")
    assert "over 3 seeds" in lines[0]
    assert any("ood_eval-simclr: msp (AUROC 0.920" in line and " beats the shortcut probe" in line for line in lines)
    assert any("ood_eval-scratch: msp" in line and " does worse than the shortcut probe" in line for line in lines)


def detectors(gains, joined_p=None):
    """Rows of `ood`, and of `ood_joined` where p is given, of one group: gains with intervals of ± .01."""
    rows = [
        {"runs": "far", "detector": name, "auroc": Estimate(0.8 + gain, None, None),
         "gain_over_probe": Estimate(gain, gain - 0.01, gain + 0.01)}
        for name, gain in gains.items()
    ]  # fmt: skip
    rows.append({"runs": "far", "detector": "shortcut probe", "auroc": 0.8, "gain_over_probe": None})
    made = [Table("ood", "", "", (), rows)]
    if joined_p:
        joined = [{**row, "gain": row["gain_over_probe"], "p": joined_p[row["detector"]]} for row in rows[:-1]]
        made.append(Table("ood_joined", "", "", (), [*joined, {"runs": "far", "detector": "shortcut probe"}]))
    return findings(made)


def test_the_best_of_several_detectors_beats_the_probe_by_holm_and_not_by_its_own_interval():
    gains = {"msp": 0.02, "knn": 0.011, "energy": -0.2}
    most = "far: of 3 detectors msp (AUROC 0.820) gains most over the shortcut probe: +0.020 [+0.010, +0.030]"
    assert detectors(gains) == [f"{most}, not adjusted for the choice among 3."]
    found = detectors(gains, {"msp": 0.06, "knn": 0.08, "energy": 0.001})
    assert found == [f"{most}, p (Holm) 0.0600: it is not shown to beat the probe."]
    found = detectors(gains, {"msp": 0.03, "knn": 0.08, "energy": 0.001})
    assert found == [f"{most}, p (Holm) 0.0300: it beats the probe."]
    (worse,) = detectors({"msp": -0.05, "knn": -0.2}, {"msp": 0.01, "knn": 0.001})
    assert worse.endswith("-0.050 [-0.060, -0.040], p (Holm) 0.0100: it does worse than the probe.")


def test_every_number_is_in_the_tidy_table(items, tmp_path):
    plan = Plan("study", "q", str(tmp_path), str(tmp_path), [item.node for item in items])
    rows = numbers(plan, items)
    assert len(rows) == sum(len(item.metrics) for item in items)
    found = {(row["node"], row["metric"]): row for row in rows}
    row = found["finetune-simclr-seed1", "test_accuracy"]
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.85, 0.82, 0.88, 5400)
    assert (row["seed"], row["label_share"], row["pretrain_epochs"], row["train_patches"]) == (1, 0.1, 50, 270)
    assert found["ood_eval-simclr-seed1", "msp_auroc"]["n"] == 5694
    assert found["finetune-simclr-seed1", "initialisation"]["text"] == "simclr on eurosat_rgb"
    assert found["finetune-scratch-seed1", "test_accuracy"]["pretrain_epochs"] is None
    write(tmp_path / "tables", plan, items, tables(items))
    table = pq.read_table(tmp_path / "tables" / "numbers.parquet")
    with open(tmp_path / "tables" / "numbers.csv", newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert table.num_rows == len(lines) == len(rows)
    assert [line["fingerprint"] for line in lines] == table["fingerprint"].to_pylist()
    wide = pq.read_table(tmp_path / "tables" / "results.parquet")
    assert wide["test_accuracy_low"].to_pylist()[1] < wide["test_accuracy"].to_pylist()[1] == pytest.approx(0.84)
    assert "\\toprule" in (tmp_path / "tables" / "results.tex").read_text()
    assert "0.8400 [0.8152, 0.8648]" in (tmp_path / "tables" / "results.md").read_text()


def test_summary_figures_are_drawn_three_times(items, tmp_path):
    plan = Plan("study", "q", str(tmp_path), str(tmp_path), [item.node for item in items])
    drawn = draw(tmp_path / "figures", plan, items, tables(items))
    assert list(drawn) == ["test_accuracy", "test_accuracy_paired", "auroc"]
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"{name}{end}" for name in drawn for end in (".png", ".pdf", ".svg")}


def test_what_a_node_is_about_comes_from_what_it_needs(items):
    by_id = {item.node.id: item for item in items}
    found = about(by_id["ood_eval-simclr-seed0"], by_id)
    assert (found.data, found.ood_data, found.pretrain_patches, found.finetune_epochs) == (
        "eurosat_rgb", "ucmerced", 4000, 20,
    )  # fmt: skip
    assert about(by_id["pack"], by_id).budget is None
    assert Path(by_id["pack"].node.artifact).name == "pack"
