"""Published mistake: tables typed by hand, which the notebooks' own logs contradict."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssl_sat.artifact import Artifact, hash_files, write_json
from ssl_sat.graph.by_hand import plan_of
from ssl_sat.graph.collect import collect
from ssl_sat.graph.report import write_report
from ssl_sat.graph.tables import numbers, tables, write
from ssl_sat.spec import UserError
from ssl_sat.verify import verify


@pytest.fixture
def copy(chain: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """The chain's outputs, to be tampered with."""
    outputs = tmp_path / "outputs"
    shutil.copytree(chain.outputs, outputs, symlinks=True)
    return SimpleNamespace(outputs=outputs, tuned=Artifact.open(outputs / "finetune" / chain.tuned.path.name))


def results_of(copy: SimpleNamespace, folder: Path) -> dict[str, str]:
    """The row of the CSV that an experiment publishes."""
    plan = plan_of("mine", [str(copy.tuned.path)], str(copy.outputs))
    items = collect(plan)
    write(folder, plan, items, tables(items))
    (row,) = csv.DictReader((folder / "results.csv").read_text().splitlines())
    return row


def typed(artifact: Artifact, accuracy: float) -> None:
    write_json(artifact.path / "metrics.json", {**artifact.metrics, "test_accuracy": accuracy})


def test_the_budget_of_a_row_is_what_was_run_and_not_what_was_meant(copy: SimpleNamespace, tmp_path: Path) -> None:
    """The study's rows say 300 epochs and batch 64 where its notebooks ran 50 and 32."""
    row = results_of(copy, tmp_path / "tables")
    assert row["budget"] == "pretraining 1 × 32 patches; fine-tuning 1 × 24 labels"
    steps = [json.loads(line)["step"] for line in (copy.tuned.path / "history.jsonl").read_text().splitlines()]
    assert max(steps) == 24 // copy.tuned.config["batch_size"]


def test_every_number_stands_beside_the_fingerprint_of_what_it_was_read_from(copy, tmp_path: Path) -> None:
    row = results_of(copy, tmp_path / "tables")
    assert row["fingerprints"] == copy.tuned.fingerprint[:8]
    assert float(row["test_accuracy"]) == json.loads((copy.tuned.path / "metrics.json").read_text())["test_accuracy"]
    plan = plan_of("mine", [str(copy.tuned.path)], str(copy.outputs))
    for number in numbers(plan, collect(plan)):
        recorded = json.loads((Path(number["artifact"]) / "artifact.json").read_text())
        assert number["fingerprint"] == recorded["fingerprint"]
        if number["value"] is not None:
            assert (
                json.loads((Path(number["artifact"]) / "metrics.json").read_text())[number["metric"]] == number["value"]
            )
    html = write_report(plan).read_text()
    assert f'id="fp-{copy.tuned.fingerprint[:8]}"' in html


def test_a_number_typed_into_an_artifact_reaches_no_table(copy: SimpleNamespace, tmp_path: Path) -> None:
    typed(copy.tuned, 0.9813)
    said = (
        r"metrics\.json is not the file that this artifact was published with: its sha256 is \w{16}, recorded is \w{16}"
    )
    with pytest.raises(UserError, match=said):
        results_of(copy, tmp_path / "tables")
    with pytest.raises(UserError, match=said):
        _ = copy.tuned.metrics
    wrong = [finding.text for finding in verify(copy.tuned.path) if finding.state == "WRONG"]
    assert wrong == ["file metrics.json: changed"]


def test_whoever_mends_the_list_of_files_too_is_met_by_the_replay(copy: SimpleNamespace, undrawn) -> None:
    accuracy = copy.tuned.metrics["test_accuracy"]
    typed(copy.tuned, 0.9813)
    write_json(copy.tuned.path / "files.json", hash_files(copy.tuned.path))
    assert not [finding for finding in verify(copy.tuned.path) if finding.state == "WRONG"]
    (wrong,) = [finding.text for finding in verify(copy.tuned.path, replay=True) if finding.state == "WRONG"]
    found = re.fullmatch(r"replay: metrics\.json: 1 of \d+ differ: test_accuracy 0\.9813 against ([\d.]+)", wrong)
    assert found is not None and float(found[1]) == accuracy
