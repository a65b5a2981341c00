"""Scores, thresholds and metrics of an out-of-distribution evaluation, from one pass over each set."""

# N samples, K classes, D detectors

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.evaluation.calibration import temperature_of
from ssl_sat.evaluation.classification import classification_metrics
from ssl_sat.evaluation.ood_sets import Context, Watched, plain_views, seen_before
from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.ood import DETECTORS
from ssl_sat.ood.bootstrap import bootstrap
from ssl_sat.ood.comparisons import compare
from ssl_sat.ood.conformal import Threshold, conformal_threshold, coverage_interval
from ssl_sat.ood.contract import Fitted, NotApplicable
from ssl_sat.ood.gaussian import SingularCovariance
from ssl_sat.ood.metrics import auroc, ood_metrics
from ssl_sat.ood.sanity import OF_LOGITS, Sanity, misclassification, wrong_predictions
from ssl_sat.ood.score import Scores
from ssl_sat.ood.selective import risk_coverage, risk_coverage_with_ood
from ssl_sat.ood.shortcut_probe import STATISTICS, ShortcutProbe, describe
from ssl_sat.ood.spec import PROBE
from ssl_sat.spec import ConfigError

Pair = tuple[Scores, Scores]  # of the same detector, in- and out-of-distribution


@dataclass(frozen=True, eq=False)
class Results:
    """Predictions of each set, scores (ID, OOD) of each detector, thresholds, and what could not be run, and why.

    The OOD side of `scores` holds reported patches alone; `validation` (val, OOD) are those that may be used to choose
    with, and in no reported number. `sanity`: whether wrong predictions on val outrank right ones. `classes`: each
    patch's own class, ID and OOD, '' where it has none.
    """

    sets: Mapping[str, Predictions]
    scores: Mapping[str, Pair]
    validation: Mapping[str, Pair]
    thresholds: Mapping[str, Threshold]
    left_out: Mapping[str, str]
    groups: Mapping[str, NDArray[np.bool_]]
    classes: tuple[list[str], list[str]]
    temperature: float | None
    sanity: Mapping[str, Sanity]


def evaluate(context: Context, out: Path) -> Results:
    """Predict every set once, fit detectors and probe on training patches, score and set thresholds.

    Predictions go to `out`/predictions-<set> while they are made.
    """
    watched = {name: Watched(feed, context.card) for name, feed in context.feeds.items()}
    sets = {name: _predicted(context, name, watched[name], out) for name in watched}
    fitted, left_out = fit(context.spec.detectors, sets["train"])
    chosen = context.validation
    if chosen.any() and "val" not in sets:
        raise ConfigError("validation_classes needs a val split: the deployed detector is not chosen on test patches.")
    scores: dict[str, Pair] = {}
    validation: dict[str, Pair] = {}
    on_val: dict[str, Scores] = {}
    thresholds: dict[str, Threshold] = {}
    for name, score in fitted.items():
        try:
            inside, outside = score(sets["id"]), score(sets["ood"])
            if "val" in sets:
                on_val[name] = score(sets["val"])
                thresholds[name] = conformal_threshold(on_val[name], context.spec.threshold.alpha)
        except NotApplicable as reason:
            left_out[name] = str(reason)
            continue
        except ConfigError as reason:
            left_out["threshold"] = str(reason)
        scores[name] = inside, _part(outside, ~chosen)
        if chosen.any():
            validation[name] = on_val[name], _part(outside, chosen)
    if not scores:
        raise NotApplicable("; ".join(left_out.values()))
    if "val" not in sets:
        left_out["threshold"] = "the data has no val split to set it on"
    probe = ShortcutProbe.fit(watched["train"].statistics())
    scores[PROBE] = (probe(watched["id"].statistics()), _part(probe(watched["ood"].statistics()), ~chosen))
    if chosen.any():
        sets["ood"] = sets["ood"].take(~chosen)
    groups = {name: mask[~chosen] for name, mask in context.groups.items() if mask[~chosen].any()}
    temperature = None
    if "val" in sets and (known := _labelled(sets["val"])) is not None:
        temperature = temperature_of(*known)
    names = [[name or "" for name in context.feeds[side].class_names()] for side in ("id", "ood")]
    classes = names[0], [name for name, used in zip(names[1], chosen, strict=True) if not used]
    sanity = _sanity(sets.get("val"), on_val)
    return Results(sets, scores, validation, thresholds, left_out, groups, classes, temperature, sanity)


def _sanity(val: Predictions | None, scores: Mapping[str, Scores]) -> dict[str, Sanity]:
    """A check of direction without OOD data, of scores that ought to know about mistakes; {} without labels."""
    if val is None or val.labels_N.ndim != 1 or not (val.labels_N >= 0).all():
        return {}
    wrong_N = wrong_predictions(val.logits_NK, val.labels_N)
    return {name: misclassification(found, wrong_N) for name, found in scores.items() if name in OF_LOGITS}


def _predicted(context: Context, name: str, batches: Any, out: Path) -> Predictions:
    """One pass over a set, with dropout passes where it is scored; and one of every other member of an ensemble."""
    feed, spec = context.feeds[name], context.spec
    scored = name != "train"
    found = predict(
        context.model, batches, context.device, **_labels(context, name), ids=feed.pack.ids,
        mc=spec.mc if scored and "mc" in needs(spec.detectors) else None, store=out / f"predictions-{name}",
    )  # fmt: skip
    if not (scored and context.members):
        return found
    others = []
    for model, card in context.members:
        own = replace(feed, views=plain_views(feed.pack, card, spec.seed))
        others.append(predict(model, own, context.device, **_labels(context, name), ids=feed.pack.ids))
    found = found.with_members(others)
    found.save(out / f"predictions-{name}")
    return found


def _labels(context: Context, name: str) -> dict[str, Any]:
    """What predictions of a set are called."""
    split = name if name != "id" else context.spec.id_split if context.spec.id_split in ("val", "test") else "test"
    source = context.feeds[name].pack.manifest.source
    return {"dataset": source, "split": split, "classes": context.card.classes or ()}


def needs(detectors: Sequence[Any]) -> set[str]:
    """What the detectors read of the predictions: features, logits, last, mc, members."""
    return {DETECTORS.build(spec).needs for spec in detectors}


def fit(detectors: Sequence[Any], train: Predictions) -> tuple[dict[str, Fitted], dict[str, str]]:
    """Fit every detector on training predictions; of those that the model does not allow, say why."""
    fitted: dict[str, Fitted] = {}
    left_out: dict[str, str] = {}
    for spec in detectors:
        try:
            fitted[spec.name] = DETECTORS.build(spec).fit(train)
        except (NotApplicable, SingularCovariance) as reason:
            left_out[spec.name] = str(reason)
    return fitted, left_out


def _part(scores: Scores, mask_N: NDArray[np.bool_]) -> Scores:
    return scores if mask_N.all() else replace(scores, values=scores.values[mask_N])


def _labelled(predictions: Predictions) -> tuple[NDArray[np.float32], NDArray[Any]] | None:
    """Logits and labels of the samples that have one class; None where there are none."""
    labels_N = np.asarray(predictions.labels_N)
    if labels_N.ndim != 1 or not (labels_N >= 0).any():
        return None
    return predictions.logits_NK[labels_N >= 0], labels_N[labels_N >= 0]


def measure(results: Results, spec: Any) -> dict[str, Any]:
    """Metrics of every detector, over all OOD patches and over each group, with the gain over the shortcut probe."""
    metrics = _measured(results, results.scores, "", spec)
    for group, mask_N in results.groups.items():
        if mask_N.sum() >= 2:
            pairs = {name: (inside, _part(outside, mask_N)) for name, (inside, outside) in results.scores.items()}
            metrics |= _measured(results, pairs, f"@{group}", spec)
    for name, threshold in results.thresholds.items():
        inside, outside = results.scores[name]
        metrics[f"{name}_threshold"] = threshold.value
        metrics[f"{name}_id_accepted"] = float(threshold.accepts(inside).mean())
        metrics[f"{name}_ood_rejected"] = float(1 - threshold.accepts(outside).mean())
    passes = results.sets["id"].mc.passes if results.sets["id"].mc else None
    metrics |= {f"{own.name}_passes": passes for own in spec.detectors if passes and "mc" in needs([own])}
    if results.validation:
        metrics["chosen_detector"] = chosen_detector(results)
    return metrics | _over_masks(results, spec) | _selective(results) | _directions(results)


def _over_masks(results: Results, spec: Any) -> dict[str, float]:
    """How far AUROC depends on the masks: its standard deviation over the mc.repeats sets of passes."""
    inside, outside = (results.sets[name].over_masks() for name in ("id", "ood"))
    found = {}
    for own in spec.detectors if len(inside) > 1 else ():
        detector = DETECTORS.build(own)
        if detector.needs == "mc" and own.name in results.scores:
            score = detector.fit(results.sets["train"])
            areas = [auroc(score(a), score(b)) for a, b in zip(inside, outside, strict=True)]
            found[f"{own.name}_auroc_sd_over_masks"] = float(np.std(areas, ddof=1))
    return found


def _measured(results: Results, scores: Mapping[str, Pair], suffix: str, spec: Any) -> dict[str, Any]:
    """Metrics of each detector; AUROC and gain by DeLong, the other intervals by resampling whole classes."""
    gains = {found.first: found for found in compare(scores, against=PROBE)}
    metrics: dict[str, Any] = {}
    for name, pair in scores.items():
        own: dict[str, Any] = dict(ood_metrics(*pair))
        if spec.bootstrap and not suffix:
            own |= _resampled(results, pair, spec)
        if name in gains:
            gain = gains[name]
            own |= {
                "gain_over_probe": gain.difference.value,
                "gain_over_probe_low": gain.difference.low,
                "gain_over_probe_high": gain.difference.high,
                "gain_over_probe_p": gain.p,
                "gain_over_probe_p_holm": gain.p_holm,
                "gain_over_probe_detectable": gain.smallest,
            }
        metrics |= {f"{name}{suffix}_{metric}": value for metric, value in own.items()}
    return metrics


def _resampled(results: Results, pair: Pair, spec: Any) -> dict[str, float]:
    """Intervals of the metrics that DeLong does not cover: whole classes are drawn where there are several."""
    clusters = [np.array(names) if len(set(names)) > 1 else None for names in results.classes]
    found = bootstrap(
        [pair], id_clusters_n=clusters[0], ood_clusters_m=clusters[1], replicates=spec.bootstrap, seed=spec.seed
    )
    return {f"{name}_{end}": getattr(interval, end) for name, interval in found.items() if name != "auroc"
            for end in ("low", "high")}  # fmt: skip


def _selective(results: Results) -> dict[str, Any]:
    """Risk over coverage of ID patches alone and with OOD ones, which needs to know what predictions are wrong."""
    labels_N = np.asarray(results.sets["id"].labels_N)
    if labels_N.ndim != 1 or not (labels_N >= 0).all():
        return {}
    wrong_N = wrong_predictions(results.sets["id"].logits_NK, labels_N)
    metrics: dict[str, Any] = {}
    for name, (inside, outside) in results.scores.items():
        if name == PROBE:
            continue
        alone, together = risk_coverage(inside, wrong_N), risk_coverage_with_ood(inside, outside, wrong_N)
        metrics |= {
            f"{name}_aurc": alone.aurc,
            f"{name}_e_aurc": alone.e_aurc,
            f"{name}_aurc_with_ood": together.aurc,
        }
    return metrics


def _directions(results: Results) -> dict[str, Any]:
    """Wrong predictions on val outranking right ones, per detector that is asked."""
    metrics: dict[str, Any] = {}
    for name, found in results.sanity.items():
        metrics[f"{name}_finds_wrong"] = found.auroc.value if found.auroc else None
        if found.auroc:
            metrics |= {f"{name}_finds_wrong_low": found.auroc.low, f"{name}_finds_wrong_high": found.auroc.high}
        metrics[f"{name}_finds_wrong_verdict"] = found.verdict
    return metrics


def chosen_detector(results: Results) -> str:
    """The detector of the largest AUROC of the validation classes against val patches, which are reported nowhere."""
    return max(results.validation, key=lambda name: auroc(*results.validation[name]))


def deployed_detector(spec: Any, results: Results) -> str | None:
    """The detector whose threshold `score` uses: the one asked for, the one chosen on validation, or the first."""
    if not results.thresholds:
        return None
    if spec.threshold.detector in results.thresholds:
        return spec.threshold.detector
    return chosen_detector(results) if results.validation else next(iter(results.thresholds))


def facts(context: Context, results: Results) -> dict[str, Any]:
    """What the numbers were measured on."""
    sets, spec, pack = results.sets, context.spec, context.feeds["id"].pack
    mc = sets["id"].mc
    id_name, ood_name = context.names
    found = {
        "tier": spec.tier,
        "initialisation": context.initialisation,
        "id_data": pack.manifest.source,
        "ood_data": context.feeds["ood"].pack.manifest.source,
        "id_name": id_name,
        "ood_name": ood_name,
        "n_id": len(sets["id"]),
        "n_ood": len(sets["ood"]),
        "n_ood_validation": int(context.validation.sum()),
        "held_out_seen_in_pretraining": seen_before(pack, context.card),
        "n_ood_identical_left_out": context.identical,
        "n_train_fit": len(sets["train"]),
        "n_calibration": len(sets["val"]) if "val" in sets else 0,
        "mc_passes": mc.passes if mc else 0,
        "mc_seed": mc.seed if mc else 0,
        "bands": ",".join(context.card.bands),
        "decode_sha256": pack.manifest.decode_sha256,
        "decode": ", ".join(f"{name}={value}" for name, value in sorted(pack.manifest.decode.items())),
        "probe_bands": describe(context.card.bands),
        "probe_statistics": len(STATISTICS),
        "alpha": spec.threshold.alpha,
        "deployed_detector": deployed_detector(spec, results),
        **{f"{name}_left_out": reason for name, reason in results.left_out.items()},
    }
    for name in ("id", "ood"):
        if (known := _labelled(sets[name])) is not None:
            found[f"{name}_accuracy"] = classification_metrics(*known, sets[name].classes)["accuracy"]
    if results.temperature is not None:
        found["temperature"] = results.temperature
    if results.thresholds:
        some = next(iter(results.thresholds.values()))
        found["id_accepted_at_least"] = some.rank / (len(some.calibration_n) + 1)
        low, high = coverage_interval(len(some.calibration_n), some.rank)
        found |= {"id_accepted_low": low, "id_accepted_high": high}
    return found
