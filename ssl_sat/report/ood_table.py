"""Rows of the tables of an out-of-distribution evaluation, from its flat metrics alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_sat.ood.spec import PROBE
from ssl_sat.report.tables import Column, Estimate, Value

COLUMNS = (
    Column("detector", "detector"),
    Column("part", "OOD part"),
    Column("direction", "higher score means"),
    Column("n_id", "n ID"),
    Column("n_ood", "n OOD"),
    Column("auroc", "AUROC [95 %]"),
    Column("gain", "gain over probe [95 %]", signed=True),
    Column("p", "p (Holm)", digits=4, floor=True),
    Column("detectable", "detectable gain"),
    Column("aupr_out", "AUPR-out"),
    Column("aupr_in", "AUPR-in"),
    Column("fpr_id_at_95tpr_ood", "FPR of ID at 95 % TPR of OOD"),
    Column("fpr_ood_at_95tpr_id", "FPR of OOD at 95 % TPR of ID"),
    Column("detection_error", "detection error"),
    Column("id_accepted", "ID accepted"),
    Column("ood_rejected", "OOD rejected"),
    Column("aurc", "AURC", digits=4),
    Column("aurc_with_ood", "AURC with OOD", digits=4),
    Column("finds_wrong", "val: AUROC wrong against right"),
    Column("orientation", "orientation"),
    Column("seeds", "seeds"),
    Column("passes", "T"),
    Column("sd_over_masks", "SD over mask seeds", digits=4),
    Column("initialisation", "model's initialisation"),
)
_PLAIN = ("aupr_out", "aupr_in", "fpr_id_at_95tpr_ood", "fpr_ood_at_95tpr_id", "detection_error")
_ALONE = ("id_accepted", "ood_rejected", "aurc", "aurc_with_ood")
PAIRED = (
    Column("first", "first"),
    Column("second", "second"),
    Column("difference", "AUROC first - second [95 %]", signed=True),
    Column("p", "p (Holm)", digits=4, floor=True),
    Column("detectable", "detectable difference"),
)


def scored(metrics: Mapping[str, Any]) -> list[str]:
    """Names with an AUROC, `detector` or `detector@part`: by detector, the probe last, the whole before its parts."""
    found = [name.removesuffix("_auroc") for name in metrics if name.endswith("_auroc")]
    return sorted(found, key=lambda name: (name.partition("@")[0] == PROBE, name.partition("@")[0], "@" in name, name))


def ood_rows(metrics: Mapping[str, Any]) -> list[dict[str, Value]]:
    """A row for each detector and part of the OOD set."""
    rows: list[dict[str, Value]] = []
    for name in scored(metrics):
        detector, _, part = name.partition("@")
        own = {key.removeprefix(f"{name}_"): value for key, value in metrics.items() if key.startswith(f"{name}_")}
        row: dict[str, Value] = {
            "detector": detector.replace("_", " "),
            "part": part or "all",
            "direction": "OOD",
            "n_id": own["n_id"],
            "n_ood": own["n_ood"],
            "auroc": Estimate(own["auroc"], own.get("auroc_low"), own.get("auroc_high")),
            "orientation": own.get("orientation"),
            "seeds": 1,
            "passes": metrics.get(f"{detector}_passes"),
            "initialisation": metrics.get("initialisation"),
            "p": own.get("gain_over_probe_p_holm"),
            "detectable": own.get("gain_over_probe_detectable"),
            **{key: _with_ends(own, key) for key in _PLAIN},
            **{key: None if part else own.get(key) for key in _ALONE},
            "finds_wrong": None if part else _with_ends(own, "finds_wrong"),
            "sd_over_masks": None if part else own.get("auroc_sd_over_masks"),
        }
        if "gain_over_probe" in own:
            row["gain"] = Estimate(own["gain_over_probe"], own["gain_over_probe_low"], own["gain_over_probe_high"])
        rows.append(row)
    return rows


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """What the command says: the two sets, the AUROC of every detector beside the probe, the threshold."""
    accuracy = f"; accuracy in-distribution {metrics['id_accuracy']:.4f}" if "id_accuracy" in metrics else ""
    passes = f"; T = {metrics['mc_passes']}" if metrics["mc_passes"] else ""
    lines = [
        f"{metrics['id_name']} ({metrics['n_id']}) against {metrics['ood_name']} ({metrics['n_ood']}){accuracy}{passes}"
    ]
    for name in scored(metrics):
        if "@" in name:
            continue
        value, low, high = (metrics[f"{name}_auroc{end}"] for end in ("", "_low", "_high"))
        gain = metrics.get(f"{name}_gain_over_probe")
        beside = "" if gain is None else f", over the probe {gain:+.3f}"
        parts = [other for other in scored(metrics) if other.startswith(f"{name}@")]
        held = "; ".join(f"{part.partition('@')[2]} {metrics[f'{part}_auroc']:.3f}" for part in parts)
        suspect = "".join(f"  {text}" for text in _suspicions(metrics, [name, *parts]))
        lines.append(
            f"AUROC {value:.4f} [{low:.4f}, {high:.4f}]  {name}{beside}{f' ({held})' if held else ''}{suspect}"
        )
    if metrics.get("held_out_seen_in_pretraining"):
        lines.append("the held-out class was in the pretraining, without its label: unlabelled, not unseen")
    deployed = metrics.get("deployed_detector")
    if deployed:
        accepted, rejected = (metrics[f"{deployed}_{what}"] for what in ("id_accepted", "ood_rejected"))
        lines.append(
            f"threshold of {deployed}: accepts at least {1 - metrics['alpha']:.0%} of images that are like those of "
            f"val (found on {metrics['id_name']}: {accepted:.1%}), OOD rejected: {rejected:.1%}"
        )
    return lines + [f"left out: {text}" for text in failures(metrics)]


def _suspicions(metrics: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Verdicts on a direction that are not 'ok': of a detector and its parts, and of its wrong predictions on val."""
    found = [(name.partition("@")[2], metrics.get(f"{name}_orientation")) for name in names]
    found.append(("val, wrong against right", metrics.get(f"{names[0]}_finds_wrong_verdict")))
    return [f"{text}{f' ({where})' if where else ''}" for where, text in found if text not in (None, "ok", "too few")]


def paired_rows(found: Sequence[Any]) -> list[dict[str, Value]]:
    """A row a comparison of two detectors, the largest difference first."""
    rows: list[dict[str, Value]] = []
    for each in sorted(found, key=lambda c: (-abs(c.difference.value), c.first, c.second)):
        gap, turned = each.difference, each.difference.value < 0
        ends = (-gap.value, -gap.high, -gap.low) if turned else (gap.value, gap.low, gap.high)
        names = (each.second, each.first) if turned else (each.first, each.second)
        row: dict[str, Value] = dict(zip(("first", "second"), (n.replace("_", " ") for n in names), strict=True))
        rows.append(row | {"difference": Estimate(*ends), "p": each.p_holm, "detectable": each.smallest})
    return rows


def _with_ends(own: Mapping[str, Any], key: str) -> Value:
    """An estimate where there are ends, else the number, else None."""
    if f"{key}_low" in own:
        return Estimate(own[key], own[f"{key}_low"], own[f"{key}_high"])
    return own.get(key)


def failures(metrics: Mapping[str, Any]) -> Sequence[str]:
    """Detectors that the model did not allow, each with the reason."""
    return [f"{name.removesuffix('_left_out')}: {reason}" for name, reason in metrics.items()
            if name.endswith("_left_out") and isinstance(reason, str)]  # fmt: skip
