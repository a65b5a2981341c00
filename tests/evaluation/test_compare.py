"""Comparing runs: groups and labels, paired differences, costs against closed forms, tables, figures, errors."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.finetuned import logits_of, write_run
from fakes.models import write_model
from scipy import stats
from torch import nn

from ssl_sat.artifact import Artifact
from ssl_sat.compare import COMPARE, CompareSpec, science_of
from ssl_sat.encoders import ENCODERS
from ssl_sat.evaluation import comparison, cost, runs
from ssl_sat.evaluation.detectable import mean_of
from ssl_sat.spec import ConfigError, MissingInput
from ssl_sat.stage import execute

RATES = ("0.0001", "0.001", "0.01")
COUNT = 400


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rates and another encoder, three seeds each; a run without a test split; a run on other data."""
    at = tmp_path_factory.mktemp("home") / "outputs"
    for seed in range(3):
        for rate, hits in zip(RATES, (0.6, 0.9, 0.75), strict=True):
            logits, labels = logits_of(hits, COUNT, 10 * seed + int(-math.log10(float(rate))))
            write_run(at, logits, labels, ["phases=full", f"phases.steps.all.lr={rate}", f"seed={seed}"])
        logits, labels = logits_of(0.88, COUNT, 100 + seed)
        write_run(at, logits, labels, ["phases=full", "phases.steps.all.lr=0.001", f"seed={seed}"], encoder="resnet18")
    logits, labels = logits_of(0.5, 50, 7)
    write_run(at, logits, labels, ["phases=linear_probe"], test=False)
    write_run(at, logits, labels, ["phases=linear_probe", "seed=5"], data="e" * 64, source="ucmerced")
    return at


def read_all(outputs: Path) -> list[runs.Run]:
    found = [Artifact.open(path) for path in sorted((outputs / "finetune").iterdir())]
    return [runs.read_run(artifact, science_of) for artifact in found]


def read(outputs: Path) -> list[runs.Run]:
    return [run for run in read_all(outputs) if "test_n" in run.metrics]


@pytest.fixture(scope="module")
def compared(outputs: Path) -> Artifact:
    return execute(COMPARE, CompareSpec(outputs=str(outputs), where=("data.name=eurosat_rgb",), throughput_s=0.01))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_are_one_row_and_labels_say_what_differs(outputs: Path) -> None:
    groups = runs.grouped(runs.kept(read(outputs), ["data.name=eurosat_rgb"]))
    assert [(group.label, sorted(group.by_seed)) for group in groups] == [
        (label, ["0", "1", "2"]) for label in ("cnn, lr=0.0001", "cnn, lr=0.001", "cnn, lr=0.01", "resnet18, lr=0.001")
    ]


def test_conditions_keep_runs_by_number_and_name(outputs: Path) -> None:
    found = read(outputs)
    assert len(runs.kept(found, ["phases.steps.all.lr=1e-3"])) == 6
    assert len(runs.kept(found, ["phases.steps.all.lr=1e-3", "encoder.name=cnn"])) == 3
    with pytest.raises(ConfigError, match=r"no run has 'encoder\.nam' .* did you mean 'encoder\.name'"):
        runs.kept(found, ["encoder.nam=cnn"])
    with pytest.raises(ConfigError, match="is not key=value"):
        runs.kept(found, ["cnn"])


def test_rows_are_means_over_seeds_with_students_interval(outputs: Path, compared: Artifact) -> None:
    row = next(row for row in table(compared.path / "comparison.csv") if row["runs"] == "cnn, lr=0.001")
    values = [run.metrics["test_accuracy"] for run in read(outputs)
              if run.config["encoder.name"] == "cnn" and run.config.get("phases.steps.all.lr") == 0.001]  # fmt: skip
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert float(row["test_accuracy"]) == pytest.approx(np.mean(values))
    assert (float(row["low"]), float(row["high"])) == pytest.approx((low, high))
    assert row["interval"] == "t over 3 seeds" and int(row["seeds"]) == 3 and int(row["test_n"]) == COUNT
    assert float(row["training_seconds"]) == 10.0 and float(row["gap"]) == pytest.approx(0.011)
    assert int(row["parameters"]) == 1_147_200 + 256 * 4 + 4


def test_differences_are_paired_by_seed_and_by_patch(outputs: Path, compared: Artifact) -> None:
    rows = {(row["first"], row["second"]): row for row in table(compared.path / "differences.csv")}
    assert len(rows) == 6
    row = rows["cnn, lr=0.001", "cnn, lr=0.0001"]
    accuracy = {(run.config["phases.steps.all.lr"], run.seed): run.metrics["test_accuracy"] for run in read(outputs)
                if run.config["encoder.name"] == "cnn" and run.data == "d" * 64}  # fmt: skip
    pairs = [accuracy[0.001, seed] - accuracy[0.0001, seed] for seed in range(3)]
    expected = stats.ttest_1samp(pairs, 0)
    assert float(row["difference"]) == pytest.approx(np.mean(pairs))
    assert float(row["p"]) == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert float(row["seeds_half_width"]) == pytest.approx((high - low) / 2)
    assert float(row["p_holm"]) >= float(row["p"])
    assert float(row["detectable"]) == max(float(row["seeds_detectable"]), float(row["patches_detectable"]))
    assert int(row["patches"]) == COUNT and row["verdict"] == "cnn, lr=0.001 is better"
    close = next(row for pair, row in rows.items() if set(pair) == {"cnn, lr=0.001", "resnet18, lr=0.001"})
    assert close["verdict"] == "not shown" and abs(float(close["difference"])) < float(close["detectable"])


def test_one_seed_has_the_error_of_mcnemars_pairs(outputs: Path) -> None:
    a, b = (run for run in read(outputs) if run.seed == 0 and run.config.get("phases.steps.all.lr") in (0.0001, 0.01))
    found = comparison.over_patches([(a, b)], "test_accuracy")
    assert found is not None
    right = [comparison._right(comparison.Predictions.load(run.path / "predictions-test")) for run in (a, b)]
    psi, d = np.mean(right[0] != right[1]), np.mean(right[0]) - np.mean(right[1])
    assert found[1] == pytest.approx(math.sqrt((psi - d**2) / (COUNT - 1)))
    assert comparison.over_patches([(a, b)], "test_nll") is None


def test_seeds_without_spread_are_not_called_one_seed() -> None:
    def verdict(values: list[float], half: float) -> str:
        rest = {"p": None, "p_holm": None, "seeds_detectable": None, "patches": 58, "patches_detectable": 0.1}
        return comparison.Difference("a", "b", mean_of(values), patches_half_width=half, **rest).verdict

    assert verdict([0.1], 0.2) == "one seed: not shown"
    assert verdict([0.1, 0.1, 0.1], 0.05) == "3 seeds without spread: beyond the chance of patches alone"


def test_everything_is_written_and_free_of_the_clock(outputs: Path, compared: Artifact) -> None:
    names = {path.name for path in compared.path.iterdir()}
    assert {"comparison.md", "comparison.csv", "comparison.png", "differences.png", "runs.csv"} <= names
    page = (compared.path / "comparison.md").read_text()
    assert "cnn, lr=0.001" in page and "detectable" in page and "not shown" in page
    assert len(table(compared.path / "runs.csv")) == 12
    assert not any("seconds" in name or "per_second" in name for name in compared.metrics)
    again = execute(COMPARE, CompareSpec(outputs=str(outputs), where=("data.name=eurosat_rgb",), throughput_s=0.01))
    assert again.path == compared.path


def test_sensitivity_draws_the_metric_over_a_key(outputs: Path) -> None:
    spec = CompareSpec(outputs=str(outputs), where=("data.name=eurosat_rgb",), sensitivity="phases.steps.all.lr",
                       throughput_s=0, flops=False)  # fmt: skip
    found = execute(COMPARE, spec)
    assert (found.path / "sensitivity.png").is_file() and "over-phases.steps.all.lr" in found.path.name
    with pytest.raises(ConfigError, match=r"no run has 'phases\.steps\.all\.lrr' .* did you mean"):
        execute(COMPARE, spec.model_copy(update={"sensitivity": "phases.steps.all.lrr"}))


def test_other_data_is_a_row_and_never_a_pair(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = execute(COMPARE, CompareSpec(outputs=str(outputs), throughput_s=0, flops=False))
    assert "it has no test split, so no result" in capsys.readouterr().out
    rows = table(found.path / "comparison.csv")
    assert {row["data"] for row in rows} == {"eurosat_rgb", "ucmerced"} and len(rows) == 5
    single = next(row for row in rows if row["data"] == "ucmerced")
    assert single["interval"] == "patches, one seed"
    assert not any("ucmerced" in row["first"] + row["second"] for row in table(found.path / "differences.csv"))


def test_a_start_stands_in_the_label_and_its_seed_does_not(tmp_path: Path) -> None:
    start = write_model(tmp_path, {"name": "cnn"}, ("B04", "B03", "B02"), 16)
    for seed in range(2):
        logits, labels = logits_of(0.8, 60, seed)
        write_run(tmp_path, logits, labels, ["phases=full", f"seed={seed}"], start=start)
        write_run(tmp_path, logits[::-1].copy(), labels, ["phases=full", f"seed={seed}"])
    groups = runs.grouped(read_all(tmp_path))
    assert [(group.label, len(group.runs)) for group in groups] == [("scratch", 2), ("simclr on somewhere", 2)]
    assert groups[1].runs[0].config["init.method.name"] == "simclr"


def test_two_runs_of_one_seed_cannot_be_told_apart(tmp_path: Path) -> None:
    logits, labels = logits_of(0.8, 60, 0)
    for extra in ("seed=0", "++seed=0"):
        write_run(tmp_path, logits, labels, ["phases=full", extra])
    with pytest.raises(ConfigError, match="one configuration and one seed cannot be told apart"):
        runs.grouped(read_all(tmp_path))


def test_what_cannot_be_compared_is_said(outputs: Path, tmp_path: Path) -> None:
    def error(kind: type[Exception], said: str, **values: Any) -> None:
        with pytest.raises(kind, match=said):
            execute(COMPARE, CompareSpec(**{"outputs": str(outputs), **values}))

    error(MissingInput, "nothing is called", runs="nowhere/*")
    error(MissingInput, "no experiment 'none' was run", graph="none")
    error(MissingInput, r"none of 14 fine-tuned artifacts is left", where=("encoder.name=vit",))
    error(ConfigError, "metric: no run has 'test_acuracy'; did you mean 'test_accuracy'", metric="test_acuracy")
    error(MissingInput, "no fine-tuned artifacts", outputs=str(tmp_path))


def test_operations_of_a_convolution_and_of_attention() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert cost.flops(conv, torch.zeros(2, 3, 16, 16)) == 2 * 8 * 3 * 9 * 16 * 16
    encoder = ENCODERS.build(ENCODERS.parse({"name": "vit_tiny"}), bands=("B04", "B03", "B02"), image_size=32, seed=0)
    tokens, d, layers = 17, 192, 12
    block = 2 * tokens * d * (3 * d + d + 8 * d) + 2 * 2 * tokens * tokens * d
    assert cost.flops(encoder, torch.zeros(1, 3, 32, 32)) == layers * block + 2 * 16 * d * 3 * 64
    assert cost.parameters(conv) == 216
    assert cost.images_per_second(conv, torch.zeros(4, 3, 8, 8), 0.01) > 0


def test_several_labels_are_compared_by_average_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = (rng.uniform(size=(120, 3)) < 0.4).astype(np.float32)
    for seed in range(2):
        for name, strength in (("full", 3.0), ("linear_probe", 0.5)):
            logits = (truth * strength + np.random.default_rng(seed).normal(size=truth.shape)).astype(np.float32)
            write_run(tmp_path, logits, truth, [f"phases={name}", f"seed={seed}"])
    found = execute(COMPARE, CompareSpec(outputs=str(tmp_path), throughput_s=0, flops=False))
    (row,) = table(found.path / "differences.csv")
    assert found.metrics["metric"] == "test_map_macro" and row["first"] == "full"
    assert 0 < float(row["patches_half_width"]) < 0.2
