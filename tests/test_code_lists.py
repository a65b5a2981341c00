"""A stage names the modules that make its numbers: those it imports, but for what is left out here with a reason."""

import ast
import importlib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUMBING = {
    **dict.fromkeys(("spec", "registry", "config"), "configuration, which enters the fingerprint as such"),
    **dict.fromkeys(("stage", "artifact", "provenance", "ranks", "progress"), "where and when, not what"),
    "bands": "names of bands; what is chosen by them stands in the model's card",
    "pack": "a stage of its own, an input here",
    "encoders.start": "resolves the configuration",
    **dict.fromkeys(("encoders.stages", "encoders.timm_encoder"), "an encoder's own, recorded where it is chosen"),
    **dict.fromkeys(("training.checkpoints", "training.survival"), "a resumed run has the bits of a whole one"),
    **dict.fromkeys(("training.loggers", "training.metrics_csv"), "write down what others have measured"),
    "training.classifier": "puts an encoder and a head in a row",
    "data.residency": "where patches lie while they are read",
    "training.show_views": "a picture in the place of a run",
    "ood.": "the passes of MC dropout, of which there are none in these stages; detectors are those of ood_eval",
}
PICTURES = {"report.": "pictures of numbers that others have made"}
STAGES = {
    "pretrain": {**PICTURES, "evaluation.predict": "loops of ood_eval and finetune"},
    "finetune": PICTURES,
    "umap_report": {
        **dict.fromkeys(("report.map_figures", "report.figures", "report.sprites"), "pictures"),
        "evaluation.pictures": "thumbnails",
        "finetune": "a stage of its own, of which the configuration is read",
        **dict.fromkeys(("data.overlap", "data.subset"), "the choice of patches, which is that of ood_eval"),
    },
}
REPORT = {
    **{name: why for name, why in PLUMBING.items() if name != "ood."},
    **{
        f"graph.{name}": "the plan itself"
        for name in ("plan", "spec", "expand", "sizes", "resources", "endings", "code")
    },
    "evaluation.predict": "made the predictions that are read here",
    "ood.contract": "types",
    **dict.fromkeys(("ood.ensemble", "ood.pass_statistics", "exporting."), "of the artifacts that are read here"),
}


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def imported(module: str) -> frozenset[str]:
    """Modules of ssl_sat that a module imports, at its head or later; packages and specs hold no arithmetic."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(file_of(module).read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {name for item in node.names if file_of(name := f"{node.module}.{item.name}")} or {node.module}
        todo += ast.iter_child_nodes(node)
    return frozenset(
        name for name in found
        if name.startswith("ssl_sat.") and not name.endswith(("spec", "_spec")) and file_of(name).name != "__init__.py"
    )  # fmt: skip


def is_left_out(module: str, reasons: dict[str, str]) -> bool:
    name = module.removeprefix("ssl_sat.")
    return any(name == key or (key.endswith(".") and name.startswith(key)) for key in reasons)


def unnamed(start: str, code: tuple[str, ...], reasons: dict[str, str]) -> set[str]:
    """What is imported, directly or by what is named, and neither named nor left out."""
    seen, todo = {start}, [start]
    while todo:
        for module in imported(todo.pop()) - seen:
            seen.add(module)
            if module in code or not is_left_out(module, reasons):
                todo.append(module)
    return {module for module in seen - {start, *code} if not is_left_out(module, reasons)}


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_makes_a_number_is_named(stage):
    code = getattr(importlib.import_module(f"ssl_sat.{stage}"), stage.upper()).code
    assert unnamed(f"ssl_sat.{stage}", code, {**PLUMBING, **STAGES[stage]}) == set()
    without = tuple(module for module in code if module != "ssl_sat.evaluation.packs")
    assert unnamed(f"ssl_sat.{stage}", without, {**PLUMBING, **STAGES[stage]}) == {"ssl_sat.evaluation.packs"}


def test_every_module_that_makes_the_report_is_named():
    from ssl_sat.graph.report import _CODE

    assert unnamed("ssl_sat.graph.report", _CODE, REPORT) == set()
    without = tuple(module for module in _CODE if module != "ssl_sat.graph.claim_tables")
    assert unnamed("ssl_sat.graph.report", without, REPORT) == {"ssl_sat.graph.claim_tables"}
