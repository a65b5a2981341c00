"""An evaluation from folders of pictures to numbers: tiers, what is refused, what the artifact holds; and scoring."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes.classifiers import write_classifier, write_pack, write_pictures
from PIL import Image
from sklearn.metrics import roc_auc_score

from ssl_sat.artifact import Artifact
from ssl_sat.data.packed import Pack
from ssl_sat.evaluation import ood_sets
from ssl_sat.evaluation.ood import evaluate, facts, measure
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.ood import DETECTORS
from ssl_sat.ood_eval import OOD_EVAL, OodEvalSpec
from ssl_sat.report.ood_table import headline
from ssl_sat.score import SCORE, ScoreSpec, task
from ssl_sat.spec import ConfigError, MissingInput, UserError
from ssl_sat.stage import Lookup, execute

KNOWN = ("field", "lake", "roof")
DETECTOR_NAMES = ("mahalanobis", "msp", "mutual_information")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A pack of three classes with a classifier of all, one without roofs, one of a subset; and other pictures."""
    folder = tmp_path_factory.mktemp("a study")
    write_pictures(folder / "own", KNOWN, 110)
    write_pictures(folder / "other", ("lake", "snow"), 30, seed=1)
    outputs = folder / "outputs"
    pack = write_pack(outputs, folder / "own")
    return SimpleNamespace(
        folder=folder,
        outputs=outputs,
        pack=pack,
        other=write_pack(outputs, folder / "other", split="none"),
        model=write_classifier(outputs, pack, KNOWN, "whole"),
        without=write_classifier(outputs, pack, ("field", "lake"), "without", held_out=["roof"]),
        part=write_classifier(outputs, pack, KNOWN, "part", subset={"fraction": 0.8}),
    )


@pytest.fixture(scope="module")
def spec_of(home: SimpleNamespace) -> Callable[..., OodEvalSpec]:
    def make(**values: Any) -> OodEvalSpec:
        return OodEvalSpec.parse(
            {
                "model": str(home.model.path), "ood": {"name": "imagefolder"}, "ood_pack": str(home.other.path),
                "detectors": list(DETECTOR_NAMES), "mc": {"passes": 4}, "device": "cpu", "batch_size": 64,
                "outputs": str(home.outputs), "max_train": 150, "bootstrap": 20, **values,
            }
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def evaluation(home: SimpleNamespace, spec_of: Callable[..., OodEvalSpec]) -> Artifact:
    return execute(OOD_EVAL, spec_of())


def prepared(spec: OodEvalSpec, out: Path) -> ood_sets.Context:
    refs = OOD_EVAL.inputs(spec, Lookup(Path(spec.outputs)))
    out.mkdir(exist_ok=True)
    return ood_sets.prepare(spec, {slot: Artifact.open(ref.path) for slot, ref in refs.items()}, out)


def test_numbers_follow_from_the_stored_scores(evaluation: Artifact) -> None:
    table, metrics = pq.read_table(evaluation.path / "scores.parquet"), evaluation.metrics
    is_ood = np.array(table["set"].to_pylist()) == "ood"
    assert is_ood.sum() == metrics["n_ood"] == 60 and (~is_ood).sum() == metrics["n_id"] == 66
    classes = np.array(table["class"].to_pylist())
    for name in (*DETECTOR_NAMES, "shortcut_probe"):
        values = table[name].to_numpy()
        assert metrics[f"{name}_auroc"] == pytest.approx(roc_auc_score(is_ood, values), abs=1e-12)
        for part, cls in (("overlapping", "lake"), ("novel", "snow")):  # classes of equal name overlap
            kept = ~is_ood | (classes == cls)
            expected = roc_auc_score(is_ood[kept], values[kept])
            assert metrics[f"{name}@{part}_auroc"] == pytest.approx(expected, abs=1e-12)
            assert metrics[f"{name}@{part}_n_ood"] == 30
    assert metrics["shortcut_probe@novel_auroc"] > 0.99  # snow is told by its colour alone
    gain = metrics["msp_auroc"] - metrics["shortcut_probe_auroc"]
    assert metrics["msp_gain_over_probe"] == pytest.approx(gain, abs=1e-12)
    assert metrics["mutual_information_passes"] == 4 and "msp_passes" not in metrics


def test_the_threshold_is_that_of_the_validation_split(evaluation: Artifact, home: SimpleNamespace) -> None:
    record, metrics = evaluation.json("threshold.json"), evaluation.metrics
    val = Predictions.load(evaluation.path / "predictions-val")
    fitted = DETECTORS.build(DETECTORS.parse({"name": "mahalanobis"})).fit(
        Predictions.load(evaluation.path / "predictions-train")
    )
    rank = int(np.ceil((len(val) + 1) * 0.95))
    assert record["calibration"] == {
        "data": "imagefolder", "split": "val", "n": len(val), "rank": rank, "level": rank / len(val)
    }  # fmt: skip
    assert record["thresholds"]["mahalanobis"] == pytest.approx(np.sort(fitted(val).values)[rank - 1])
    scores = pq.read_table(evaluation.path / "scores.parquet")
    outside = np.array(scores["set"].to_pylist()) == "ood"
    rejected = scores["mahalanobis"].to_numpy()[outside] > record["thresholds"]["mahalanobis"]
    assert metrics["mahalanobis_ood_rejected"] == pytest.approx(rejected.mean())
    assert record["deployed"] == metrics["deployed_detector"] == "mahalanobis"
    assert set(record["decode"]) == set(Pack.open(home.pack.path).manifest.decode)


def test_tables_say_direction_counts_interval_seeds_and_passes(evaluation: Artifact) -> None:
    rows = list(csv.DictReader((evaluation.path / "table.csv").read_text().splitlines()))
    assert (
        len(rows) == 4 * 3 and {row["direction"] for row in rows} == {"OOD"} and {row["seeds"] for row in rows} == {"1"}
    )
    by_name = {(row["detector"], row["part"]): row for row in rows}
    row = by_name["mutual information", "all"]
    assert float(row["auroc"]) == evaluation.metrics["mutual_information_auroc"] and row["passes"] == "4"
    assert float(row["auroc_low"]) < float(row["auroc"]) < float(row["auroc_high"])
    text, tex = ((evaluation.path / f"table.{suffix}").read_text() for suffix in ("md", "tex"))
    assert text.count("\n| ") == 2 + len(rows) and "| OOD |" in text
    assert tex.count("\\\\\n") == 1 + len(rows) and "imagefolder" in tex and "_" not in tex.replace("\\_", "")
    figures = {path.stem for path in evaluation.path.glob("*.pdf")}
    assert {"roc", "precision_recall", "risk_coverage", "reliability", "fooled", "scores"} <= figures


def test_held_out_classes_are_the_ood_set_of_a_model_without_them(home, spec_of, tmp_path: Path) -> None:
    context = prepared(spec_of(model=str(home.without.path), tier="held_out", ood_split="test"), tmp_path / "a")
    assert context.feeds["ood"].class_names() == ["roof"] * 22
    assert set(context.feeds["id"].class_names()) == set(context.feeds["train"].class_names()) == {"field", "lake"}
    results = evaluate(context, tmp_path / "a")
    assert set(results.sets["id"].labels_N) == {0, 1} and set(results.sets["ood"].labels_N) == {-1}
    assert len(prepared(spec_of(model=str(home.without.path), tier="held_out"), tmp_path / "b").feeds["ood"]) == 22
    whole = prepared(spec_of(model=str(home.without.path), tier="held_out", ood_split="all"), tmp_path / "d")
    assert len(whole.feeds["ood"]) == 110
    with pytest.raises(ConfigError, match=r"fine-tuned on all classes.*'held_out=\[<class>\]'"):
        prepared(spec_of(tier="held_out"), tmp_path / "c")


def test_another_split_is_compared_with_patches_of_the_training_places(home, spec_of, tmp_path: Path) -> None:
    values = {"model": str(home.part.path), "tier": "split", "ood_split": "test"}
    context = prepared(spec_of(**values, id_split="unused"), tmp_path / "a")
    pack = Pack.open(home.pack.path)
    used = 3 * round(0.8 * 66)
    assert len(context.feeds["id"]) == 198 - used and set(context.feeds["id"].rows) <= set(pack.rows("train"))
    np.testing.assert_array_equal(context.feeds["ood"].rows, pack.rows("test"))
    assert set(evaluate(context, tmp_path / "a").sets["ood"].labels_N) == {0, 1, 2}  # the same classes
    with pytest.raises(ConfigError, match="needs a model that was fine-tuned on a subset"):
        prepared(spec_of(tier="split", ood_split="test", id_split="unused"), tmp_path / "b")
    with pytest.raises(ConfigError, match="compares two splits that the model was not trained on"):
        prepared(spec_of(**values, id_split="test"), tmp_path / "c")


def test_classes_that_choose_are_in_no_reported_number(spec_of, tmp_path: Path) -> None:
    context = prepared(spec_of(validation_classes=["snow"]), tmp_path / "a")
    results = evaluate(context, tmp_path / "a")
    metrics = measure(results, context.spec)
    assert {len(outside) for _, outside in results.scores.values()} == {30} and len(results.sets["ood"]) == 30
    val = results.sets["val"]
    assert len(val) == 66 and not {*val.ids} & {*results.sets["id"].ids}
    for name, pair in results.validation.items():  # against val patches: test is for the reported numbers alone
        score = DETECTORS.build(DETECTORS.parse({"name": name})).fit(results.sets["train"])
        np.testing.assert_array_equal(pair[0].values, score(val).values)
    best = max(DETECTOR_NAMES, key=lambda name: roc_auc_score([0] * 66 + [1] * 30, np.concatenate(
        [scores.values for scores in results.validation[name]])))  # fmt: skip
    assert metrics["chosen_detector"] == best and metrics["msp_n_ood"] == 30
    with pytest.raises(
        ConfigError, match=r"validation_classes: no class rain in the OOD set \(there are: lake, snow\)"
    ):
        prepared(spec_of(validation_classes=["rain"]), tmp_path / "b")
    with pytest.raises(ConfigError, match="no class is left to report on"):
        prepared(spec_of(validation_classes=["snow", "lake"]), tmp_path / "c")


def test_wrong_predictions_on_val_are_asked_of_scores_of_the_logits_alone(spec_of, tmp_path: Path) -> None:
    context = prepared(spec_of(), tmp_path)
    results = evaluate(context, tmp_path)
    metrics = measure(results, context.spec)
    val = results.sets["val"]
    wrong_N = val.logits_NK.argmax(1) != val.labels_N
    score = DETECTORS.build(DETECTORS.parse({"name": "msp"}))
    assert metrics["msp_finds_wrong"] == pytest.approx(
        roc_auc_score(wrong_N, score.fit(results.sets["train"])(val).values), abs=1e-12
    )
    assert {name for name in metrics if name.endswith("_finds_wrong")} == {
        "msp_finds_wrong",
        "mutual_information_finds_wrong",
    }
    lines = headline(metrics | facts(context, results) | {"msp_finds_wrong_verdict": "SUSPECT_ORIENTATION"})
    assert [line for line in lines if "SUSPECT_ORIENTATION (val, wrong against right)" in line and " msp" in line]


@pytest.mark.parametrize(
    ("trained_on", "seen"),
    [
        ([], False),
        (["imagefolder (display, 330 patches)"], True),
        (["imagefolder (display, 330 patches, without roof)"], False),
        (["imagefolder (display, 330 patches, without lake)"], True),
        (["bigearthnet_v1 (L2A, 9 patches)"], False),
    ],
)
def test_a_held_out_class_that_the_pretraining_saw_is_not_called_unseen(
    home, spec_of, trained_on: list[str], seen: bool, tmp_path: Path
) -> None:
    context = prepared(spec_of(model=str(home.without.path), tier="held_out"), tmp_path)
    own = "imagefolder (display, 330 patches, without roof)"
    card = context.card.model_copy(update={"trained_on": [*trained_on, own]})
    assert ood_sets.seen_before(context.feeds["id"].pack, card) is seen
    assert not ood_sets.seen_before(Pack.open(home.pack.path), card)


def test_patches_of_the_id_set_in_the_ood_folder_are_named(home, spec_of, tmp_path: Path) -> None:
    shutil.copytree(home.folder / "other", tmp_path / "mixed")
    pack = Pack.open(home.pack.path)
    known = pack.ids[int(pack.rows("train")[7])]
    shutil.copy(home.folder / "own" / f"{known}.png", tmp_path / "mixed" / "snow" / "stray.png")
    mixed = write_pack(home.outputs, tmp_path / "mixed", split="none")
    with pytest.raises(
        UserError, match=r"1 of 61 .* in the in-distribution set as well, pixel for pixel.*'snow/stray'"
    ):
        prepared(spec_of(ood_pack=str(mixed.path)), tmp_path / "out")


def test_another_decode_path_is_refused_and_named(home, spec_of, tmp_path: Path) -> None:
    jpeg = write_pack(home.outputs, home.folder / "other", split="none", recompress="jpeg75")
    with pytest.raises(UserError, match=r"recompress: none against jpeg75.*which alone would tell them apart"):
        prepared(spec_of(ood_pack=str(jpeg.path)), tmp_path / "out")


def test_too_few_training_patches_are_told_before_the_work(tmp_path: Path) -> None:
    def pack(train: int) -> Any:
        return SimpleNamespace(folder=tmp_path, rows=lambda split: np.arange(train))

    ood_sets._enough_to_fit(pack(120))
    with pytest.raises(UserError, match=r"has 119 training patches.*at least 120"):
        ood_sets._enough_to_fit(pack(119))


def test_a_choice_of_rows_is_seeded_sorted_and_without_repeats() -> None:
    rows = np.arange(100, 400)
    chosen = ood_sets._some(rows, 40, seed=0)
    assert len(set(chosen)) == 40 and set(chosen) <= set(rows)
    np.testing.assert_array_equal(chosen, np.sort(chosen))
    np.testing.assert_array_equal(chosen, ood_sets._some(rows, 40, seed=0))
    assert not np.array_equal(chosen, ood_sets._some(rows, 40, seed=1))
    np.testing.assert_array_equal(ood_sets._some(rows, None, seed=0), rows)


def test_a_detector_that_the_model_does_not_allow_is_left_out_with_its_reason(home, spec_of, tmp_path: Path) -> None:
    context = prepared(spec_of(detectors=["msp", "ensemble_variance"]), tmp_path / "a")
    results = evaluate(context, tmp_path / "a")
    assert set(results.scores) == {"msp", "shortcut_probe"}
    assert "needs an ensemble" in results.left_out["ensemble_variance"]
    voted = prepared(spec_of(detectors=["ensemble_variance"], ensemble=[str(home.part.path)]), tmp_path / "b")
    assert set(evaluate(voted, tmp_path / "b").scores) == {"ensemble_variance", "shortcut_probe"}
    with pytest.raises(ConfigError, match="knows other classes"):
        prepared(spec_of(ensemble=[str(home.without.path)]), tmp_path / "c")


def scoring(home: SimpleNamespace, model: Artifact, **values: Any) -> ScoreSpec:
    return ScoreSpec.parse(
        {"model": str(model.path), "data": {"name": "imagefolder"}, "outputs": str(home.outputs), "device": "cpu",
         "progress": False, **values}
    )  # fmt: skip


@pytest.mark.parametrize("detector", ["mahalanobis", "mutual_information"])
def test_scoring_a_folder_gives_what_the_evaluation_gave(
    home, evaluation: Artifact, detector: str, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(home.folder / "other", images)
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    to = tmp_path / "scores.csv"
    task(scoring(home, evaluation, images=str(images), by=detector, to=str(to), batch_size=7))
    rows = list(csv.DictReader(to.read_text().splitlines()))
    known = pq.read_table(evaluation.path / "scores.parquet")
    outside = {
        i: s
        for i, s, kind in zip(*(known[c].to_pylist() for c in ("id", detector, "set")), strict=True)
        if kind == "ood"
    }
    threshold = evaluation.json("threshold.json")["thresholds"][detector]
    assert {row["id"].removesuffix(".png") for row in rows} == set(outside) and len(rows) == 60
    for row in rows:
        if detector == "mahalanobis":  # dropout masks go by name here, by row of the pack there
            assert float(row["ood_score"]) == pytest.approx(outside[row["id"].removesuffix(".png")], rel=1e-3)
        assert row["decision"] == ("accept" if float(row["ood_score"]) <= threshold else "reject")
        assert (float(row["p_value"]) <= 0.05) == (row["decision"] == "reject")
        assert row["prediction"] in KNOWN and 1 / 3 <= float(row["confidence"]) <= 1
    bad = list(csv.DictReader(to.with_suffix(".unreadable.csv").read_text().splitlines()))
    assert [row["path"] for row in bad] == ["broken.png"] and "identify" in bad[0]["reason"]


def test_a_score_depends_on_no_other_image(home, evaluation: Artifact, tmp_path: Path) -> None:
    few = tmp_path / "few"
    (few / "snow").mkdir(parents=True)
    shutil.copy(home.folder / "other" / "snow" / "004.png", few / "snow")
    values = {"by": "mutual_information"}
    alone = execute(SCORE, scoring(home, evaluation, images=str(few), **values))
    together = execute(
        SCORE, scoring(home, home.model, images=str(home.folder / "other"), **values)
    )  # newest evaluation
    one = pq.read_table(alone.path / "scores.parquet").to_pylist()[0]
    same = next(r for r in pq.read_table(together.path / "scores.parquet").to_pylist() if r["id"] == "snow/004.png")
    assert one["ood_score"] == pytest.approx(same["ood_score"], rel=1e-4) and one["prediction"] == same["prediction"]


def test_an_image_that_was_written_again_is_judged_again(home, evaluation: Artifact, tmp_path: Path) -> None:
    images = tmp_path / "latest"
    images.mkdir()
    for name, cls in (("one.bmp", "field"), ("one.png", "snow")):  # two images, whatever their stems
        Image.open(home.folder / ("own" if cls == "field" else "other") / cls / "003.png").save(images / name)
    (images / "old.gif").write_bytes(b"GIF89a")

    def judged() -> dict[str, float]:
        rows = pq.read_table(execute(SCORE, scoring(home, evaluation, images=str(images))).path / "scores.parquet")
        return dict(zip(rows["id"].to_pylist(), rows["ood_score"].to_pylist(), strict=True))

    before = judged()
    assert set(before) == {"one.bmp", "one.png"} and judged() == before
    Image.open(home.folder / "other" / "lake" / "005.png").save(images / "one.bmp")  # as many bytes
    after = judged()
    assert after["one.png"] == before["one.png"] and after["one.bmp"] != before["one.bmp"]
    found = execute(SCORE, scoring(home, evaluation, images=str(images)))
    bad = list(csv.DictReader((found.path / "unreadable.csv").read_text().splitlines()))
    assert [row["path"] for row in bad] == ["old.gif"] and ".gif images are not read" in bad[0]["reason"]


def test_mistakes_of_scoring_are_named(home, evaluation: Artifact) -> None:
    other = {"name": "imagefolder", "root": str(home.folder / "other"), "size_px": 20}
    with pytest.raises(UserError, match=r"decoded another way than the data of the threshold \(.*to_px=16"):
        execute(SCORE, scoring(home, evaluation, data=other))
    with pytest.raises(ConfigError, match=r"by: no 'knn' .* \(there are: mahalanobis, msp, mutual_information\)"):
        execute(SCORE, scoring(home, evaluation, images=str(home.folder / "other"), by="knn"))
    with pytest.raises(MissingInput, match=r"no evaluation of .*python -m ssl_sat.ood_eval model="):
        execute(SCORE, scoring(home, home.without, images=str(home.folder / "other")))
    with pytest.raises(ConfigError, match=r"a file that ends in .csv or .parquet is needed"):
        scoring(home, evaluation, to="scores.txt")


def test_a_changed_threshold_is_noticed(home, evaluation: Artifact, tmp_path: Path) -> None:
    import torch

    from ssl_sat.evaluation.scoring import Scorer

    copy = tmp_path / "copy"
    shutil.copytree(evaluation.path, copy)
    record = json.loads((copy / "threshold.json").read_text())
    record["thresholds"]["msp"] += 0.1
    (copy / "threshold.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"its predictions give msp the threshold .* recorded is"):
        Scorer(Artifact.open(copy), home.model.path, "msp", torch.device("cpu"))
