"""A classifier under corruptions: its accuracy, how well each score tells corrupted patches, what a threshold does.

Clean and corrupted patches are different ones (two seeded halves of the test split), so that the two sides of an AUROC
are independent; severity 0 is the half that is to be corrupted, before it is.
"""

# N patches, S = 5 severities

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_sat.artifact import Artifact
from ssl_sat.data.held_out import without_classes
from ssl_sat.data.packed import Pack
from ssl_sat.evaluation.classification import classification_metrics, wilson_interval
from ssl_sat.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from ssl_sat.evaluation.corruptions.scene import Corrupter, Units
from ssl_sat.evaluation.ood import fit, needs
from ssl_sat.evaluation.ood_sets import Feed, Watched, initialisation_of, plain_views
from ssl_sat.evaluation.packs import choose_device
from ssl_sat.evaluation.pictures import pictures
from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.ood.comparisons import compare
from ssl_sat.ood.conformal import Threshold, conformal_threshold
from ssl_sat.ood.contract import NotApplicable
from ssl_sat.ood.metrics import delong
from ssl_sat.ood.score import Scores
from ssl_sat.ood.shortcut_probe import ShortcutProbe
from ssl_sat.ood.spec import PROBE
from ssl_sat.progress import Advance
from ssl_sat.report import figures, ood_figures
from ssl_sat.report.tables import Column, Estimate, Value, write_tables
from ssl_sat.seeding import key
from ssl_sat.spec import UserError
from ssl_sat.stage import record_facts
from ssl_sat.training import setup
from ssl_sat.training.model_io import ModelCard, load_classifier

Row = dict[str, Value]
COLUMNS = (
    Column("corruption", "corruption"),
    Column("severity", "severity"),
    Column("level", "level"),
    Column("n", "n"),
    Column("accuracy", "accuracy [95 %]"),
    Column("nll", "NLL"),
    Column("ece", "ECE"),
)


@dataclass(frozen=True, eq=False)
class Bench:
    """The model with what was fitted on clean patches."""

    spec: Any
    model: Any
    card: ModelCard
    units: Units
    corrupted: Feed
    clean: Mapping[str, Scores]
    fitted: Mapping[str, Any]
    probe: ShortcutProbe
    thresholds: Mapping[str, Threshold]
    left_out: Mapping[str, str]
    demo: bool
    initialisation: str


def prepare(spec: Any, inputs: Mapping[str, Artifact], out: Path) -> Bench:
    """Open model and pack, predict the clean sets, fit detectors and probe."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    model, card = load_classifier(inputs["model"].path)
    model = model.to(device)
    pack = without_classes(Pack.open(inputs["data"].path), inputs["model"].config.get("held_out", ()))
    if pack.manifest.label_kind != "single":
        raise UserError(f"{pack.folder} has several labels a patch; shift_eval measures accuracy and needs one.")
    views = plain_views(pack, card, spec.seed)
    rows = _halves(pack, spec)
    feeds = {name: Feed(pack, chosen, views, spec.batch_size, device) for name, chosen in rows.items()}
    watched = {name: Watched(feed, card) for name, feed in feeds.items() if name != "corrupted"}
    sets = {name: _predicted(spec, model, card, feed, name) for name, feed in watched.items()}
    fitted, left_out = fit(spec.detectors, sets["train"])
    probe = ShortcutProbe.fit(watched["train"].statistics())
    clean = _clean(fitted, sets["clean"], left_out)
    fitted = {name: score for name, score in fitted.items() if name in clean}
    clean[PROBE] = probe(watched["clean"].statistics())
    thresholds = {}
    if "val" in sets:
        thresholds = {name: conformal_threshold(score(sets["val"]), spec.alpha) for name, score in fitted.items()}
    setup.record_inputs(out, card, {"data": pack})
    record_facts(out, torch_threads=torch.get_num_threads(), device=str(device))
    demo = any(item.synthetic for item in inputs.values())
    units = Units.of(pack, spec.black, spec.white)
    start, corrupted = initialisation_of(inputs["model"], card), feeds["corrupted"]
    return Bench(spec, model, card, units, corrupted, clean, fitted, probe, thresholds, left_out, demo, start)


def _clean(fitted: Mapping[str, Any], found: Predictions, left_out: dict[str, str]) -> dict[str, Scores]:
    """Scores of the clean patches; a detector that the predictions do not allow is left out with its reason."""
    scores: dict[str, Scores] = {}
    for name, score in fitted.items():
        try:
            scores[name] = score(found)
        except NotApplicable as reason:
            left_out[name] = str(reason)
    if not scores:
        raise NotApplicable("; ".join(left_out.values()))
    return scores


def _halves(pack: Pack, spec: Any) -> dict[str, NDArray[np.int64]]:
    """Seeded rows: of train and val at most so many, and two disjoint parts of the test split."""
    generator = np.random.Generator(np.random.Philox(key=key(spec.seed, "shift-rows")))
    test = generator.permutation(pack.rows(spec.split))
    count = min(spec.max_patches, len(test) // 2)
    if count < 2:
        raise UserError(f"{pack.folder}: split '{spec.split}' has {len(test)} patches; four are needed at least.")
    found = {"clean": np.sort(test[:count]), "corrupted": np.sort(test[count : 2 * count])}
    for name, most in (("train", spec.max_train), ("val", spec.max_val)):
        if name in pack.splits and len(pack.rows(name)) and name != spec.split:
            found[name] = np.sort(generator.permutation(pack.rows(name))[:most])
    return found


def _predicted(spec: Any, model: Any, card: ModelCard, batches: Any, name: str) -> Predictions:
    feed = batches.feed if isinstance(batches, Watched) else batches
    split = {"clean": "test", "corrupted": "ood"}.get(name, name)
    return predict(
        model, batches, feed.device, dataset=feed.pack.manifest.source, split=split, classes=card.classes or (),
        ids=feed.pack.ids, mc=spec.mc if name != "train" and "mc" in needs(spec.detectors) else None,
    )  # fmt: skip


def evaluate(bench: Bench, advance: Advance) -> list[Row]:
    """A row for no corruption, then one for each corruption and severity."""
    rows = [_measured(bench, bench.corrupted, "none", 0, None)]
    each = len(bench.corrupted)
    total = each * (1 + len(SEVERITIES) * len(bench.spec.corruptions))
    advance(each, total)
    for spec, severity, change in corrupters(bench):
        feed = replace(bench.corrupted, change=change)
        rows.append(_measured(bench, feed, spec.name, severity, spec.levels[severity - 1]))
        advance(each * len(rows), total)
    return rows


def corrupters(bench: Bench) -> Iterator[tuple[Any, int, Corrupter]]:
    """Every corruption at every severity."""
    for spec in bench.spec.corruptions:
        corruption = CORRUPTIONS.build(spec)
        for severity in SEVERITIES:
            pack = bench.corrupted.pack
            yield spec, severity, Corrupter(corruption, spec.name, severity, pack, bench.units, bench.spec.seed)


def _measured(bench: Bench, feed: Feed, name: str, severity: int, level: float | None) -> Row:
    watched = Watched(feed, bench.card)
    found = _predicted(bench.spec, bench.model, bench.card, watched, "corrupted")
    told = classification_metrics(found.logits_NK, found.labels_N, found.classes)
    row: Row = {
        "corruption": name,
        "severity": severity,
        "level": level,
        "n": len(found),
        "accuracy": Estimate(*(float(told[f"accuracy{end}"]) for end in ("", "_low", "_high"))),
        "nll": float(told["nll"]),
        "ece": float(told["ece"]),
    }
    scores = {detector: score(found) for detector, score in bench.fitted.items()}
    scores[PROBE] = bench.probe(watched.statistics())
    gains = compare({detector: (bench.clean[detector], own) for detector, own in scores.items()}, against=PROBE)
    for gain in gains:
        row[f"gain/{gain.first}"] = Estimate(gain.difference.value, gain.difference.low, gain.difference.high)
        row[f"p/{gain.first}"] = gain.p_holm
    for detector, own in scores.items():
        area = delong(bench.clean[detector], own)
        row[f"auroc/{detector}"] = Estimate(area.value, area.low, area.high)
        if detector in bench.thresholds:
            row |= _deployed(detector, bench.thresholds[detector].accepts(own), found)
    return row


def _deployed(detector: str, accepted_N: NDArray[np.bool_], found: Predictions) -> Row:
    """The share that the threshold accepts, and the accuracy of what it accepts."""
    row: Row = {f"accepted/{detector}": _share(accepted_N)}
    if accepted_N.any():
        right_N = found.logits_NK.argmax(1) == found.labels_N
        row[f"accuracy_of_accepted/{detector}"] = _share(right_N[accepted_N])
    return row


def _share(hits_N: NDArray[np.bool_]) -> Estimate:
    return Estimate(float(hits_N.mean()), *wilson_interval(int(hits_N.sum()), len(hits_N)))


def metrics_of(bench: Bench, rows: list[Row]) -> dict[str, Any]:
    """All numbers flat, `<what>/<corruption>/<severity>`, and means over the corruptions by severity."""
    m = bench.corrupted.pack.manifest
    stretched = f"inverse stretch {bench.spec.black:g} ... {bench.spec.white:g}"
    found: dict[str, Any] = {
        "data": m.source,
        "initialisation": bench.initialisation,
        "bands": ",".join(bench.card.bands),
        "n": len(bench.corrupted),
        "n_clean": len(next(iter(bench.clean.values()))),
        "corruptions": len(bench.spec.corruptions),
        "alpha": bench.spec.alpha,
        "in_reflectance_by": stretched if m.level == "display" else "scale and offset",
        **{f"{name}_left_out": reason for name, reason in bench.left_out.items()},
    }
    for row in rows:
        where = f"{row['corruption']}/{row['severity']}" if row["severity"] else "none"
        for name, value in row.items():
            if isinstance(value, Estimate):
                found[f"{name}/{where}"] = value.value
                found |= {f"{name}/{where}_low": value.low, f"{name}/{where}_high": value.high}
            elif name in ("nll", "ece") or name.startswith("p/"):
                found[f"{name}/{where}"] = value
    for severity in SEVERITIES:
        some = [row for row in rows if row["severity"] == severity]
        for name in [name for name, value in some[0].items() if isinstance(value, Estimate)]:
            held = [value.value for row in some if isinstance(value := row.get(name), Estimate)]
            found[f"mean/{name}/{severity}"] = float(np.mean(held))
    return found


def tables(out: Path, bench: Bench, rows: list[Row]) -> None:
    """table.md, .csv and .tex."""
    detectors = [*bench.fitted, PROBE]
    columns = [*COLUMNS]
    for name in detectors:
        shown = name.replace("_", " ")
        columns.append(Column(f"auroc/{name}", f"AUROC {shown} [95 %]"))
        if name != PROBE:
            columns.append(Column(f"gain/{name}", f"{shown} over the probe [95 %]", signed=True))
            columns.append(Column(f"p/{name}", f"p of it (Holm), {shown}", digits=4, floor=True))
        if name in bench.thresholds:
            columns.append(Column(f"accepted/{name}", f"accepted by {shown} [95 %]"))
            columns.append(Column(f"accuracy_of_accepted/{name}", f"accuracy of accepted, {shown} [95 %]"))
    caption = (
        f"{bench.corrupted.pack.manifest.source}, {bench.spec.split}: corruptions in reflectance. AUROC tells "
        f"corrupted from clean patches, higher score = more OOD; n = {len(bench.corrupted)} corrupted, as many others "
        f"clean, one seed{_passes(bench)}; Holm over the detectors of a line; thresholds at "
        f"alpha = {bench.spec.alpha:g}. "
        f"The model's initialisation: {bench.initialisation}."
    )
    write_tables(out / "table", columns, rows, caption)


def _passes(bench: Bench) -> str:
    return f", T = {bench.spec.mc.passes}" if "mc" in needs(bench.spec.detectors) else ""


def draw(out: Path, bench: Bench, rows: list[Row]) -> None:
    """Accuracy, AUROC and acceptance over severity, and a patch under every corruption."""
    source = f"{bench.corrupted.pack.manifest.source}, {bench.spec.split}"
    kinds = {
        "accuracy": (["accuracy"], "accuracy", f"{source}: accuracy under corruption", None),
        "auroc": ([f"auroc/{name}" for name in (*bench.fitted, PROBE)], "AUROC",
                  f"{source}: corrupted against clean", 0.5),
        "accepted": ([f"accepted/{name}" for name in bench.thresholds], "share accepted",
                     f"{source}: accepted at alpha = {bench.spec.alpha:g}", 1 - bench.spec.alpha),
    }  # fmt: skip
    for name, (series, ylabel, title, line) in kinds.items():
        if series:
            figure = ood_figures.corruption_curves(
                _panels(rows, series), ylabel=ylabel, title=title, chance=line, demo=bench.demo
            )
            figures.save(figure, out / f"corruption_{name}")
    figures.save(gallery(bench), out / "corruptions")


def _panels(rows: list[Row], series: list[str]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """By corruption and series, (6, 3) of value, low, high; severity 0 is the uncorrupted half."""
    names = list(dict.fromkeys(str(row["corruption"]) for row in rows if row["severity"]))
    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name in names:
        own = [rows[0], *(row for row in rows if row["corruption"] == name)]
        panels[name] = {label.partition("/")[2] or label: np.array([row[label] for row in own]) for label in series}
    return panels


def gallery(bench: Bench) -> Any:
    """The first patch of the class that is most common among those to be corrupted."""
    feed = bench.corrupted
    labels = feed.pack.labels[feed.rows]
    row = feed.rows[[int(np.flatnonzero(labels == np.bincount(labels[labels >= 0]).argmax())[0])]]
    groups, rows_N = feed.pack.batch(row).groups, torch.from_numpy(np.asarray(row))
    shown = {spec.name: [pictures(feed.pack, row, bench.card.bands)[0]] for spec in bench.spec.corruptions}
    for spec, _, change in corrupters(bench):
        shown[spec.name].append(pictures(feed.pack, row, bench.card.bands, change(groups, rows_N))[0])
    levels = [spec.levels for spec in bench.spec.corruptions]
    title = f"{feed.pack.manifest.source}: {feed.pack.ids[int(row[0])]} (levels below each picture: docs/ood.md)"
    return ood_figures.corruption_gallery(
        np.array(list(shown.values())), list(shown), levels, title=title, demo=bench.demo
    )
