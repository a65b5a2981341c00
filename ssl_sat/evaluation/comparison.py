"""Groups of runs side by side: what each reached and cost, how they differ, what differences could have been seen."""

# N patches, K classes, S seeds, B resamples

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.evaluation import multilabel
from ssl_sat.evaluation.detectable import (
    Mean,
    detectable_over_patches,
    detectable_over_seeds,
    holm,
    mean_of,
    paired_p,
    paired_standard_error,
)
from ssl_sat.evaluation.predict import Predictions
from ssl_sat.evaluation.runs import Group, Run
from ssl_sat.spec import ConfigError, MissingInput, suggest

DEFAULT_METRICS = ("test_accuracy", "test_map_macro")
_ALL_PAIRS = 8  # groups whose pairs are all compared; of more, each with the best


@dataclass(frozen=True)
class Cost:
    """parameters of encoder and head; flops an image; images_per_second of inference, measured now, or None."""

    parameters: int
    flops: float | None
    images_per_second: float | None


@dataclass(frozen=True)
class Difference:
    """first - second on their common seeds, with what could have been seen at all.

    over_seeds: mean and interval of the differences of runs that share a seed. p, p_holm: paired t-test, and adjusted
    for the number of comparisons. seeds_detectable, patches_detectable: smallest differences that these seeds and these
    test patches show with probability .80; None where there is one seed, or where predictions are missing.
    """

    first: str
    second: str
    over_seeds: Mean
    p: float | None
    p_holm: float | None
    seeds_detectable: float | None
    patches: int | None
    patches_half_width: float | None
    patches_detectable: float | None

    @property
    def detectable(self) -> float | None:
        """The larger of the two: below it nothing can be told."""
        known = [value for value in (self.seeds_detectable, self.patches_detectable) if value is not None]
        return max(known) if known else None

    @property
    def verdict(self) -> str:
        """What these runs show: a difference beyond both kinds of chance, or none that they could have shown."""
        value, half = self.over_seeds.mean, self.patches_half_width
        if self.p_holm is None:
            beyond = half is not None and abs(value) > half
            seeds = "one seed" if self.over_seeds.n == 1 else f"{self.over_seeds.n} seeds without spread"
            return f"{seeds}: beyond the chance of patches alone" if beyond else f"{seeds}: not shown"
        if self.p_holm < 0.05 and (half is None or abs(value) > half):
            return f"{self.first if value > 0 else self.second} is better"
        return "not shown"


def metric_of(runs: Sequence[Run], asked: str | None) -> str:
    """The metric to compare by; ConfigError for one that no run has, or where the runs have none in common."""
    if asked is not None:
        known = sorted({name for run in runs for name, value in run.metrics.items() if _is_number(value)})
        if asked not in known:
            raise ConfigError(f"metric: no run has '{asked}'{suggest(asked, known)}")
        return asked
    for name in DEFAULT_METRICS:
        if all(name in run.metrics for run in runs):
            return name
    have = {name: sum(name in run.metrics for run in runs) for name in DEFAULT_METRICS}
    text = ", ".join(f"{count} of {len(runs)} runs have {name}" for name, count in have.items())
    raise ConfigError(f"the runs share no test metric: {text}. Compare one kind with where=[...], or name a metric=...")


def differences(groups: Sequence[Group], metric: str) -> list[Difference]:
    """Every pair of groups on the same data, larger mean first; with more than eight groups each against the best.

    Pairs without a common seed are left out: nothing pairs them.
    """
    found = []
    for first, second in _pairs(groups, metric):
        ours, theirs = first.numbers(metric), second.numbers(metric)
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        values = [ours[seed] - theirs[seed] for seed in seeds]
        over = mean_of(values)
        patches = over_patches([(first.by_seed[seed], second.by_seed[seed]) for seed in seeds], metric)
        least = 1 / patches[0] if patches is not None and metric == "test_accuracy" else 0.0
        seen = None if over.sd is None else max(detectable_over_seeds(over.sd, over.n), least)
        found.append((first.label, second.label, over, paired_p(values), seen, patches))
    adjusted = holm([p for _, _, _, p, _, _ in found])
    return [
        Difference(a, b, over, p, p_holm, seen, *_of_patches(patches))
        for (a, b, over, p, seen, patches), p_holm in zip(found, adjusted, strict=True)
    ]


def _of_patches(found: tuple[int, float] | None) -> tuple[int | None, float | None, float | None]:
    if found is None:
        return None, None, None
    count, error = found
    return count, 1.959963984540054 * error, detectable_over_patches(error) if error > 0 else None


def _pairs(groups: Sequence[Group], metric: str) -> list[tuple[Group, Group]]:
    pairs = []
    for data in sorted({group.data for group in groups}):
        same = [group for group in groups if group.data == data and group.numbers(metric)]
        same.sort(key=lambda group: -mean_of(list(group.numbers(metric).values())).mean)
        pairs += list(itertools.combinations(same, 2)) if len(same) <= _ALL_PAIRS else [(same[0], s) for s in same[1:]]
    return pairs


def over_patches(pairs: Sequence[tuple[Run, Run]], metric: str) -> tuple[int, float] | None:
    """Number of test patches, and the standard error over them of the difference averaged over the seeds.

    Accuracy: of the per-patch differences in being right. Mean average precision: of bootstrap resamples of the
    patches. None for other metrics, and where predictions are missing or of other patches.
    """
    try:
        both = [tuple(Predictions.load(run.path / "predictions-test") for run in pair) for pair in pairs]
    except MissingInput:
        return None
    if len({part.ids for pair in both for part in pair}) != 1:
        return None
    if metric == "test_accuracy":
        difference_SN = np.stack([_right(a) - _right(b) for a, b in both])
        return difference_SN.shape[1], paired_standard_error(difference_SN.mean(axis=0))
    if metric in ("test_map_macro", "test_map_micro"):
        at = 0 if metric == "test_map_macro" else 1
        weights_BN = multilabel.resampled_weights(len(both[0][0]))
        resampled_SB = np.stack([_resampled(a, weights_BN)[at] - _resampled(b, weights_BN)[at] for a, b in both])
        return len(both[0][0]), float(np.nanstd(resampled_SB.mean(axis=0), ddof=1))
    return None


def _right(predictions: Predictions) -> NDArray[np.float64]:
    return (predictions.logits_NK.argmax(1) == predictions.labels_N).astype(np.float64)


def _resampled(predictions: Predictions, weights_BN: NDArray[np.float64]) -> tuple[Any, Any]:
    logits = np.asarray(predictions.logits_NK, np.float64)
    return multilabel.mean_average_precisions(logits, np.asarray(predictions.labels_N) > 0.5, weights_BN)


def group_row(group: Group, metric: str, cost: Cost | None, dataset: str) -> dict[str, Any]:
    """What a group reached and cost: means over seeds; the interval is over seeds, or over patches for one seed."""
    found = mean_of(list(group.numbers(metric).values()))
    low, high, basis = _interval(group, metric, found)
    times = [float(run.provenance["seconds"]) for run in group.runs if not run.provenance.get("resumed")]
    speeds = [run.provenance["speed"]["images_per_second"] for run in group.runs if run.provenance.get("speed")]
    start = group.runs[0].config["init"]
    row: dict[str, Any] = {"runs": group.label, "initialisation": start, "data": dataset, "seeds": found.n}
    row[metric] = found.mean
    row |= {"low": low, "high": high, "interval": basis, "sd": found.sd}
    row |= {name: _mean(group, name) for name in ("test_macro_f1", "test_nll", "test_ece", "test_ece_scaled")}
    row |= {"gap": _mean(group, "gap"), "overfitting": sum(bool(run.metrics.get("overfitting")) for run in group.runs)}
    row |= {name: _mean(group, name) for name in _probes(group)}
    row |= {"parameters": cost.parameters if cost else None, "gflops": _scaled(cost.flops if cost else None, 1e9)}
    row |= {"inference_images_per_second": cost.images_per_second if cost else None}
    row |= {"training_images_per_second": mean_of(speeds).mean if speeds else None}
    row |= {"training_seconds": mean_of(times).mean if len(times) == len(group.runs) else None}
    row |= {"test_n": group.runs[0].metrics.get("test_n"), "fingerprints": " ".join(run.short for run in group.runs)}
    return row


def _probes(group: Group) -> list[str]:
    ends = ("accuracy", "map_macro")
    names = [
        f"{when}_{probe}_{end}" for when in ("start", "tuned") for probe in ("knn", "linear_probe") for end in ends
    ]
    return [name for name in names if name in group.runs[0].metrics]


def _interval(group: Group, metric: str, found: Mean) -> tuple[float | None, float | None, str]:
    if found.half_width is not None:
        return found.mean - found.half_width, found.mean + found.half_width, f"t over {found.n} seeds"
    metrics = group.runs[0].metrics
    low, high = metrics.get(f"{metric}_low"), metrics.get(f"{metric}_high")
    return low, high, "patches, one seed" if low is not None else "none, one seed"


def _mean(group: Group, metric: str) -> float | None:
    values = list(group.numbers(metric).values())
    return mean_of(values).mean if values else None


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def flat_metrics(rows: Sequence[Mapping[str, Any]], found: Sequence[Difference], metric: str) -> dict[str, Any]:
    """What two comparisons of the same runs share to the byte: no clock in it."""
    flat: dict[str, Any] = {"metric": metric, "groups": len(rows), "runs": sum(int(row["seeds"]) for row in rows)}
    for row in rows:
        name = f"{row['runs']} on {row['data']}"
        flat |= {f"{name}/{key}": row[key] for key in (metric, "low", "high", "sd", "seeds", "gap", "parameters")}
        flat[f"{name}/gflops"] = row["gflops"]
    for item in found:
        name = f"{item.first} - {item.second}"
        flat[f"{name}/difference"] = item.over_seeds.mean
        flat[f"{name}/half_width"] = item.over_seeds.half_width
        flat |= {f"{name}/p_holm": item.p_holm, f"{name}/detectable": item.detectable, f"{name}/verdict": item.verdict}
    return flat
