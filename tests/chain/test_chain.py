"""The user's literal chain on synthetic scenes: pretrain, then bare finetune, ood_eval, umap_report."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ssl_sat.artifact import Artifact

SCENES = ["data=scenes", "data.patches_per_class=40"]
CLOUD = ["ood=scenes", "ood.classes=[cloud]", "ood.split=none", "ood.patches_per_class=20"]
QUICK = ["trainer.threads=2", "trainer.tensorboard=false"]


class Home:
    """A folder in which commands run, as a user's would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: dict[str, str] = {}

    def run(self, stage: str, *overrides: str, status: int = 0) -> str:
        arguments = [sys.executable, "-m", f"ssl_sat.{stage}", *overrides]
        done = subprocess.run(arguments, cwd=self.path, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, done.stdout[-1500:] + done.stderr[-1500:]
        self.said[stage] = done.stdout + done.stderr
        return self.said[stage]

    def latest(self, stage: str) -> Artifact:
        return Artifact.open(self.path / "outputs" / stage / "latest")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.run("pretrain", "encoder=vit_tiny", *SCENES, *QUICK, "epochs=1", "batch_size=32", "optim.warmup_epochs=0.2")
    home.run("finetune", *SCENES, *QUICK, "phases=full", "epochs=2", "batch_size=16")
    home.run("ood_eval", *CLOUD, "mc.passes=10", "max_train=1000")
    home.run("umap_report")
    return home


def test_each_command_takes_the_latest_says_so_and_records_it(home):
    chain = ["pretrain", "finetune", "ood_eval", "umap_report"]
    slots = {"finetune": "init", "ood_eval": "model", "umap_report": "features"}
    for before, stage in itertools.pairwise(chain):
        source = home.latest(before)
        assert f"{before}: using latest" in home.said[stage]
        assert source.path.name in home.said[stage]
        assert home.latest(stage).record["inputs"][slots[stage]] == source.fingerprint


def test_all_of_it_is_marked_as_synthetic(home):
    for stage in ("pack", "pretrain", "finetune", "ood_eval", "umap_report"):
        assert home.latest(stage).synthetic, stage


def test_artifacts_are_whole(home):
    for stage in ("pack", "pretrain", "finetune", "ood_eval", "umap_report"):
        assert home.latest(stage).damaged() == []


def test_twelve_bands_travel_from_data_to_report(home):
    bands = "B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12"
    card = home.latest("finetune").json("model.json")
    assert sorted(card["bands"]) == sorted(bands.split(","))
    for stage in ("pretrain", "finetune", "ood_eval"):
        assert sorted(home.latest(stage).metrics["bands"].split(",")) == sorted(bands.split(",")), stage
    assert home.latest("finetune").metrics["initialisation"] == "simclr on scenes, 1 epochs, from scratch"


def test_history_holds_every_step_and_every_validation_at_its_epoch(home):
    artifact = home.latest("finetune")
    rows = [json.loads(line) for line in (artifact.path / "history.jsonl").read_text().splitlines()]
    validations = [row for row in rows if "val_accuracy" in row]
    steps = [row["step"] for row in rows if "loss" in row]
    assert [row["epoch"] for row in validations] == [0, 1]
    assert steps == list(range(1, 2 * (artifact.metrics["train_patches"] // 16) + 1))
    assert validations[-1]["val_accuracy"] == pytest.approx(artifact.metrics["val_accuracy"], abs=1e-6)
    assert validations[-1]["val_loss"] == pytest.approx(artifact.metrics["val_nll"], rel=1e-4)


def test_scores_stand_for_every_patch_and_the_probe_beside(home):
    table = pq.read_table(home.latest("ood_eval").path / "scores.parquet").to_pydict()
    metrics = home.latest("ood_eval").metrics
    assert table["set"].count("ood") == metrics["n_ood"] == 20
    assert table["set"].count("id") == metrics["n_id"] == home.latest("finetune").metrics["test_n"]
    for name in ("mutual_information", "predictive_entropy", "msp", "shortcut_probe"):
        inside = [v for v, s in zip(table[name], table["set"], strict=True) if s == "id"]
        outside = [v for v, s in zip(table[name], table["set"], strict=True) if s == "ood"]
        wins = sum((o > i) + 0.5 * (o == i) for o in outside for i in inside)
        assert metrics[f"{name}_auroc"] == pytest.approx(wins / len(inside) / len(outside), abs=1e-12)
        assert metrics[f"{name}_auroc_low"] <= metrics[f"{name}_auroc"] <= metrics[f"{name}_auroc_high"]


def test_figures_are_there_as_png_and_pdf(home):
    for stage, stems in (
        ("finetune", ["confusion", "curves"]),
        ("ood_eval", ["roc", "scores"]),
        ("umap_report", ["map", "neighbours"]),
    ):
        for stem in stems:
            folder = home.latest(stage).path
            assert (folder / f"{stem}.png").read_bytes()[:4] == b"\x89PNG"
            assert (folder / f"{stem}.pdf").read_bytes()[:5] == b"%PDF-"


def test_maps_show_the_encoder_before_and_after(home):
    artifact = home.latest("umap_report")
    card, table = artifact.json("map.json"), pq.read_table(artifact.path / "map.parquet")
    assert [state["name"] for state in card["states"]] == ["untrained", "start", "finetuned"]
    assert "simclr on scenes, 1 epochs, from scratch" in card["states"][1]["label"]
    assert table.num_rows == artifact.metrics["n_id"] + artifact.metrics["n_ood"]
    assert len(list(artifact.path.glob("thumbnails-*.webp"))) == card["thumbnails"]["sheets"]
    assert {"cloud"} == {name for name, kind in zip(*(table[c].to_pylist() for c in ("class", "set")), strict=True)
                         if kind == "ood"}  # fmt: skip


def test_the_report_of_artifacts_made_by_hand(home):
    said = home.run("report", "name=mine", "artifacts=[outputs/umap_report/latest]")
    folder = home.path / "outputs" / "reports" / "mine"
    assert "report: outputs/reports/mine/report.html" in said
    page = (folder / "report.html").read_text()
    for stage in ("pack", "pretrain", "finetune", "ood_eval", "umap_report"):
        assert home.latest(stage).fingerprint[:8] in page, stage
    assert "DEMO DATA" in page and len(page) < 15_000_000
    assert (folder / "tables" / "results.md").is_file() and (folder / "tables" / "ood.tex").is_file()


def test_a_second_run_does_nothing(home):
    assert "already done" in home.run("finetune", *SCENES, *QUICK, "phases=full", "epochs=2", "batch_size=16")


def test_a_conflicting_encoder_is_an_error(home):
    said = home.run("finetune", *SCENES, "encoder=resnet18", "phases=full", status=2)
    assert "encoder=resnet18 conflicts with init=" in said
    assert "vit_tiny" in said


def test_missing_inputs_name_the_command_that_makes_them(home, tmp_path):
    empty = Home(tmp_path)
    assert "python -m ssl_sat.pretrain" in empty.run("finetune", *SCENES, status=2)
    assert "python -m ssl_sat.finetune" in empty.run("ood_eval", status=2)
    assert "python -m ssl_sat.ood_eval" in empty.run("umap_report", status=2)
    said = empty.run("pretrain", status=2)
    assert "data.root" in said
    assert "BigEarthNet" in said


def test_epochs_for_several_phases_say_which_key_to_set(home):
    said = home.run("finetune", *SCENES, "epochs=3", status=2)
    assert "phases.steps.head.epochs" in said


def test_metrics_are_flat_sorted_json(home):
    for stage in ("pretrain", "finetune", "ood_eval", "umap_report"):
        text = (home.latest(stage).path / "metrics.json").read_text()
        values = json.loads(text)
        assert list(values) == sorted(values)
        assert not any(isinstance(value, (dict, list)) for value in values.values())
