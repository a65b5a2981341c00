"""Tables and figures of a comparison: comparison.{md,csv,txt,png,pdf}, differences.*, runs.csv, sensitivity.*."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssl_sat.evaluation.comparison import Cost, Difference
from ssl_sat.evaluation.runs import Group
from ssl_sat.report import comparison_figures as plots
from ssl_sat.report import figures

Row = Mapping[str, Any]
_NOTE = """\
Means over seeds. The interval is Student's t over seeds; of a single run it is that of its metric over patches. `gap`
is training less validation, measured alike; (k!) marks k runs over-fitted by the rule of docs/finetuning.md.
`linear before` and `after` are a linear classifier on frozen features of the encoder before and after fine-tuning.
Parameters are those of encoder and head; a multiply and an add are two operations; images/s are of inference, timed on
this machine. Training time is the artifact's whole run, where it was not interrupted.
"""
_ABOUT = """\
Differences of runs that share a seed. `p` is that of the paired t-test over seeds, adjusted for the number of
comparisons (Holm). `detectable` is the smallest difference that the test would have found with probability .80 at the
5 % level: over seeds from the noncentral t, over patches from the standard error of per-patch differences. What lies
below it could not have been seen: 'not shown' does not mean 'equal'.
"""


def cost_of(group: Group, spec: Any) -> Cost:
    """Cost of the network of a group, on its first run."""
    import torch

    from ssl_sat.evaluation import cost
    from ssl_sat.evaluation.packs import choose_device
    from ssl_sat.exporting.loaded import load_model

    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    model = load_model(group.runs[0].path)
    one = torch.zeros(1, len(model.bands), model.image_size, model.image_size)
    operations = cost.flops(model, one) if spec.flops else None
    speed = None
    if spec.throughput_s > 0:
        batch = one.expand(spec.batch_size, -1, -1, -1).contiguous().to(device)
        speed = cost.images_per_second(model.to(device), batch, spec.throughput_s)
    return Cost(cost.parameters(model), operations, speed)


def write(
    out: Path, rows: Sequence[Row], groups: Sequence[Group], found: Sequence[Difference], metric: str,
    sensitivity: str | None, demo: bool,
) -> None:  # fmt: skip
    """Write all of it into the folder."""
    differences = [difference_row(item) for item in found]
    _write_csv(out / "comparison.csv", rows)
    _write_csv(out / "runs.csv", run_rows(groups, metric))
    if differences:
        _write_csv(out / "differences.csv", differences)
    shown, compared = [_shown(row, metric) for row in rows], [_shown_difference(item) for item in found]
    (out / "comparison.md").write_text(markdown(shown, compared, metric, demo), encoding="utf-8")
    (out / "comparison.txt").write_text(as_text(shown) + ("\n" + as_text(compared) if compared else ""), "utf-8")
    figures.save(plots.overview(rows, groups, metric, demo=demo), out / "comparison")
    if found:
        figures.save(plots.differences(found, metric, demo=demo), out / "differences")
    if sensitivity is not None:
        figures.save(plots.sensitivity(groups, sensitivity, metric, demo=demo), out / "sensitivity")


def run_rows(groups: Sequence[Group], metric: str) -> list[dict[str, Any]]:
    """One row a run: its group, seed, metric, fingerprint, path."""
    return [
        {
            "runs": group.label, "seed": run.seed, metric: run.metrics.get(metric), "gap": run.metrics.get("gap"),
            "seconds": run.provenance.get("seconds"), "fingerprint": run.fingerprint, "path": str(run.path),
        }
        for group in groups
        for run in group.runs
    ]  # fmt: skip


def difference_row(item: Difference) -> dict[str, Any]:
    """A difference as a flat row."""
    flat = {key: value for key, value in asdict(item).items() if key != "over_seeds"}
    over = {"seeds": item.over_seeds.n, "difference": item.over_seeds.mean, "sd": item.over_seeds.sd}
    over["seeds_half_width"] = item.over_seeds.half_width
    names = {"first": flat.pop("first"), "second": flat.pop("second")}
    return {**names, **over, **flat, "detectable": item.detectable, "verdict": item.verdict}


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n", restval="")
        table.writeheader()
        table.writerows(rows)


def _shown(row: Row, metric: str) -> dict[str, str]:
    """The columns that people read, as text."""
    value = f"{row[metric]:.4f}"
    if row["low"] is not None:
        value += f" [{row['low']:.4f}, {row['high']:.4f}]"
    gap = (
        "-"
        if row["gap"] is None
        else f"{row['gap']:+.3f}" + (f" ({row['overfitting']}!)" if row["overfitting"] else "")
    )
    shown = {name: str(row[name]) for name in ("runs", "initialisation", "data", "seeds")} | {_plain(metric): value}
    shown |= {"macro F1": _number(row["test_macro_f1"], ".4f"), "ECE": _number(row["test_ece"], ".4f"), "gap": gap}
    for name, label in (("start_linear_probe", "linear before"), ("tuned_linear_probe", "after")):
        found = next((row[key] for key in row if key.startswith(name)), None)
        shown[label] = _number(found, ".3f")
    shown |= {"M params": _number(row["parameters"], ",.2f", 1e6), "GFLOPs": _number(row["gflops"], ".3g")}
    shown |= {"images/s": _number(row["inference_images_per_second"], ",.0f")}
    shown |= {"training s": _number(row["training_seconds"], ",.0f"), "fingerprints": str(row["fingerprints"])}
    return shown


def _shown_difference(item: Difference) -> dict[str, str]:
    over = item.over_seeds
    value = f"{over.mean:+.4f}"
    if over.half_width is not None:
        value += f" [{over.mean - over.half_width:+.4f}, {over.mean + over.half_width:+.4f}]"
    return {
        "first - second": f"{item.first} - {item.second}",
        "seeds": str(over.n),
        "difference": value,
        "p (Holm)": "<0.001" if item.p_holm is not None and item.p_holm < 0.0005 else _number(item.p_holm, ".3f"),
        "detectable: seeds": _number(item.seeds_detectable, ".4f"),
        "patches": _number(item.patches_detectable, ".4f"),
        "n": _number(item.patches, ",d"),
        "reading": item.verdict,
    }


def _number(value: Any, form: str, unit: float = 1) -> str:
    return "-" if value is None else format(value / unit if unit != 1 else value, form)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def markdown(shown: Sequence[Mapping[str, str]], compared: Sequence[Mapping[str, str]], metric: str, demo: bool) -> str:
    """Both tables as a page."""
    parts = [f"# Comparison by {_plain(metric)}\n"]
    parts += ["**Demonstration: synthetic data went into these numbers.**\n"] if demo else []
    parts += [_table(shown), _NOTE]
    parts += ["## Differences\n", _table(compared), _ABOUT] if compared else ["No two rows share a seed and data.\n"]
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name].replace("|", "/") for name in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_text(rows: Sequence[Mapping[str, str]]) -> str:
    """A table in columns for the terminal, without what is '-' in every row."""
    names = [name for name in rows[0] if any(row[name] != "-" for row in rows) and name != "fingerprints"]
    lines = [names, *([row[name] for name in names] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(names))]
    return "".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )
