"""An out-of-distribution evaluation from model and packs to stored scores, metrics and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_sat.artifact import Artifact
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.data.packed import Pack
from ssl_sat.evaluation.classification import classification_metrics
from ssl_sat.evaluation.packs import batches, choose_device, predict_rows
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.mc_dropout import mc_dropout
from ssl_sat.ood.metrics import delong_difference, ood_metrics
from ssl_sat.ood.score import Scores
from ssl_sat.ood.shortcut_probe import MIN_FIT, STATISTICS, ShortcutProbe, describe, image_statistics
from ssl_sat.report import figures
from ssl_sat.seeding import key
from ssl_sat.spec import UserError
from ssl_sat.stage import record_facts
from ssl_sat.training import setup
from ssl_sat.training.model_io import ModelCard, load_classifier

SETS = ("train", "id", "ood")
Pair = tuple[Scores, Scores]  # of the same detector, in- and out-of-distribution


@dataclass(frozen=True)
class Context:
    """What an evaluation works on: the model with its card, and a pack with rows and views for each of `SETS`."""

    spec: Any
    model: Any
    card: ModelCard
    packs: Mapping[str, Pack]
    rows: Mapping[str, np.ndarray]
    views: Mapping[str, Any]
    device: torch.device
    demo: bool


def prepare(spec: Any, inputs: Mapping[str, Artifact], out: Path) -> Context:
    """Open everything; refuse OOD data that took another way from file to pixel, or that lies in the ID set."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    model, card = load_classifier(inputs["model"].path)
    data, ood = Pack.open(inputs["data"].path), Pack.open(inputs["ood"].path)
    _same_decode(data, ood)
    _enough_to_fit(data)
    packs = {"train": data, "id": data, "ood": ood}
    rows = {
        "train": _some(data.rows("train"), spec.max_train, spec.seed),
        "id": _some(data.rows(spec.id_split), spec.max_id, spec.seed),
        "ood": setup.rows_of(ood, spec.ood_split or "all"),
    }
    views = {
        name: setup.views(AugmentSpec(name="none", eval=card.framing), pack, card, spec.seed)
        for name, pack in packs.items()
    }
    setup.record_inputs(out, card, {"data": data, "ood": ood})
    record_facts(out, torch_threads=torch.get_num_threads(), device=str(device))
    demo = any(item.synthetic for item in inputs.values())
    return Context(spec, model.to(device), card, packs, rows, views, device, demo)


def _same_decode(data: Pack, ood: Pack) -> None:
    """The pixels of both sets must have come the same way, or the way is what gets detected."""
    if data.manifest.decode_sha256 != ood.manifest.decode_sha256:
        mine, other = data.manifest.decode, ood.manifest.decode
        differing = sorted(name for name in {*mine, *other} if mine.get(name) != other.get(name))
        shown = "; ".join(f"{name}: {mine.get(name)} against {other.get(name)}" for name in differing)
        raise UserError(
            f"in- and out-of-distribution data were decoded differently ({shown}), which alone would tell them apart. "
            f"Pack both with the same settings, as in ood.size_px=... and ood.recompress=..."
        )


def _enough_to_fit(data: Pack) -> None:
    """Say before the work, not after it, that the probe's covariance needs more patches."""
    count = len(data.rows("train"))
    if count < MIN_FIT:
        raise UserError(
            f"{data.folder} has {count} training patches; the shortcut probe that stands beside every result is fitted "
            f"on at least {MIN_FIT}. Fine-tune on a larger pack."
        )


def _some(rows: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """A seeded choice of at most `most` rows, in their order; None takes all."""
    if most is None or len(rows) <= most:
        return rows
    generator = np.random.Generator(np.random.Philox(key=key(seed, "ood-rows")))
    return np.sort(generator.permutation(rows)[:most])


def predict_sets(context: Context) -> dict[str, Predictions]:
    """One pass over each set, and the dropout passes over those that are scored."""
    needs_mc = any(DETECTORS.build(spec).needs == "mc" for spec in context.spec.detectors)
    found = {}
    for name in SETS:
        pack, rows, views = context.packs[name], context.rows[name], context.views[name]
        labelled = pack if name != "ood" else None
        predictions = predict_rows(
            context.model, views, pack, rows, split={"id": context.spec.id_split}.get(name, name),
            classes=context.card.classes, batch_size=context.spec.batch_size, device=context.device,
        )  # fmt: skip
        if labelled is None:
            predictions = _unlabelled(predictions)
        if needs_mc and name != "train":
            pairs = ((x, r) for x, r, _ in batches(pack, rows, views.center, context.spec.batch_size, context.device))
            mc = mc_dropout(context.model, pairs, context.spec.mc.passes, context.spec.mc.seed, context.device)
            predictions = predictions.with_mc(mc)
        found[name] = predictions
    return found


def _unlabelled(predictions: Predictions) -> Predictions:
    """OOD patches have no label among the model's classes, whatever their own folders are called."""
    from dataclasses import replace

    return replace(predictions, labels_N=np.full(len(predictions), -1, np.int64))


def score_sets(context: Context, sets: Mapping[str, Predictions]) -> dict[str, Pair]:
    """Scores of every detector and of the shortcut probe, in- and out-of-distribution."""
    scores = {}
    for spec in context.spec.detectors:
        fitted = DETECTORS.build(spec).fit(sets["train"])
        scores[spec.name] = (fitted(sets["id"]), fitted(sets["ood"]))
    statistics = {name: _statistics(context, name) for name in SETS}
    probe = ShortcutProbe.fit(statistics["train"])
    scores["shortcut_probe"] = (probe(statistics["id"]), probe(statistics["ood"]))
    return scores


def _statistics(context: Context, name: str) -> np.ndarray:
    """The probe's statistics of a set, from values before normalisation."""
    mean, std = (torch.tensor(v, device=context.device) for v in context.card.normalisation.of(context.card.bands))
    parts = []
    for x_NCHW, _, _ in batches(
        context.packs[name], context.rows[name], context.views[name].center, context.spec.batch_size, context.device
    ):
        values_NCHW = x_NCHW.float() * std[:, None, None] + mean[:, None, None]
        parts.append(image_statistics(values_NCHW, context.card.bands).cpu().numpy())
    return np.concatenate(parts)


def measure(scores: Mapping[str, Pair]) -> dict[str, Any]:
    """Metrics of every detector, each with its gain in AUROC over the shortcut probe and the gain's interval."""
    metrics: dict[str, Any] = {}
    probe = scores["shortcut_probe"]
    for name, pair in scores.items():
        metrics |= {f"{name}_{metric}": value for metric, value in ood_metrics(*pair).items()}
        if name != "shortcut_probe":
            gain, p_value = delong_difference(pair, probe)
            metrics |= {
                f"{name}_gain_over_probe": gain.value,
                f"{name}_gain_over_probe_low": gain.low,
                f"{name}_gain_over_probe_high": gain.high,
                f"{name}_gain_over_probe_p": p_value,
            }
    return metrics


def facts(context: Context, sets: Mapping[str, Predictions]) -> dict[str, Any]:
    """What the numbers were measured on."""
    known = sets["id"].labels_N >= 0
    logits, labels = sets["id"].logits_NK[known], sets["id"].labels_N[known]
    mc = sets["id"].mc
    return {
        "id_accuracy": classification_metrics(logits, labels, sets["id"].classes)["accuracy"],
        "id_data": context.packs["id"].manifest.source,
        "ood_data": context.packs["ood"].manifest.source,
        "n_id": len(sets["id"]),
        "n_ood": len(sets["ood"]),
        "n_train_fit": len(sets["train"]),
        "mc_passes": mc.passes if mc else 0,
        "mc_seed": mc.seed if mc else 0,
        "bands": ",".join(context.card.bands),
        "decode_sha256": context.packs["id"].manifest.decode_sha256,
        "probe_bands": describe(context.card.bands),
        "probe_statistics": len(STATISTICS),
    }


def store(out: Path, context: Context, sets: Mapping[str, Predictions], scores: Mapping[str, Pair]) -> None:
    """Write predictions (for every later reader) and one row of scores a sample."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("id", "ood"):
        sets[name].save(out / f"predictions-{name}")
    columns: dict[str, Any] = {
        "id": [*sets["id"].ids, *sets["ood"].ids],
        "set": ["id"] * len(sets["id"]) + ["ood"] * len(sets["ood"]),
        "class": [*_class_names(context, "id"), *_class_names(context, "ood")],
    }
    for name, (inside, outside) in scores.items():
        columns[name] = np.concatenate([inside.values, outside.values])
    pq.write_table(pa.table(columns), out / "scores.parquet")


def _class_names(context: Context, name: str) -> list[str | None]:
    """Each row's own class name in its own data set; None where it has none."""
    pack = context.packs[name]
    if pack.manifest.label_kind != "single":
        return [None] * len(context.rows[name])
    return [pack.classes[label] if label >= 0 else None for label in pack.labels[context.rows[name]]]


def draw(out: Path, context: Context, scores: Mapping[str, Pair]) -> None:
    """A histogram of every score and the ROC curves, as PNG and PDF."""
    inside_name, outside_name = (context.packs[name].manifest.source for name in ("id", "ood"))
    title = f"{inside_name} ({context.spec.id_split}) against {outside_name}"
    for name, (inside, outside) in scores.items():
        label = f"{name.replace('_', ' ')}: {title}"
        histogram = figures.score_histograms(inside, outside, title=label, demo=context.demo)
        figures.save(histogram, out / f"scores_{name}")
    figures.save(figures.roc_curves(scores, title=title, demo=context.demo), out / "roc")
