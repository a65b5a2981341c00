"""Imports go down only: graph -> stages -> {training, evaluation, report} -> methods -> leaves -> foundations.

Heavy libraries stay in their layer. The rules are read off the syntax trees, imports inside functions included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ssl_sat"
LEAVES = {"data", "fetch", "augment", "encoders", "losses", "optim", "ood"}
MIDDLE = {"training", "evaluation", "report", "exporting", "diagnosis"}
LEAF_FOUNDATIONS = {"spec", "registry", "bands", "seeding", "precision", "progress"}  # precision is about torch
FOUNDATIONS = LEAF_FOUNDATIONS | {"artifact", "stage", "provenance", "ranks"}
HEAVY = {
    "torch",
    "timm",
    "lightning",
    "pytorch_lightning",
    "lightly",
    "rasterio",
    "matplotlib",
    "umap",
    "sklearn",
    "numba",
}
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, inside_functions: bool = True) -> Iterator[str]:
    """Absolute names of the modules that a file imports; those under TYPE_CHECKING cost nothing and are left out."""
    waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "ssl_sat")
        waiting += ast.iter_child_nodes(node)


def layer(file: str) -> str:
    """Package or module below ssl_sat: `data/sources/tiff.py` -> `data`, `pretrain.py` -> `pretrain`.

    The command of a package (`report/__main__.py`) stands above the graph.
    """
    return "command" if file.endswith("/__main__.py") else file.partition("/")[0].removesuffix(".py")


def allowed(own: str) -> set[str]:
    """What a layer may import of the others."""
    stages = {layer(file) for file in FILES if "/" not in file} - FOUNDATIONS - {"__init__", "config"}
    if own in FOUNDATIONS:
        return FOUNDATIONS if own not in LEAF_FOUNDATIONS else LEAF_FOUNDATIONS
    if own in LEAVES:
        return FOUNDATIONS
    if own == "methods":
        return FOUNDATIONS | LEAVES
    if own in MIDDLE:
        return FOUNDATIONS | LEAVES | {"methods"} | MIDDLE
    if own == "config":
        return FOUNDATIONS
    below = FOUNDATIONS | LEAVES | {"methods", "config"} | MIDDLE | stages
    return below | {"graph"} if own in {"graph", "experiment", "verify", "command"} else below


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down(file: str) -> None:
    own = layer(file)
    used = {name.split(".")[1] for name in imports(FILES[file]) if name.startswith("ssl_sat.")}
    assert used - {own} - allowed(own) - {"__version__"} == set()


def test_hydra_is_imported_by_config_alone_and_rasterio_by_sources_alone() -> None:
    for file, path in FILES.items():
        roots = {name.partition(".")[0] for name in imports(path)}
        assert file == "config.py" or not roots & {"hydra", "omegaconf"}, file
        assert file.startswith("data/sources/") or "rasterio" not in roots, file
        assert "experiments" not in roots and not any(name.startswith("ssl_sat.experiments") for name in imports(path))


def light() -> list[str]:
    """Packages, spec modules, foundations and commands: what `--help` and the planner import."""
    alone = {file for file in FILES if "/" not in file or file.startswith("graph/")} - {"precision.py"}
    return sorted(alone | {file for file in FILES if file.endswith(("/__init__.py", "/spec.py"))})


@pytest.mark.parametrize("file", light())
def test_specs_and_commands_import_nothing_heavy_themselves(file: str) -> None:
    roots = {name.partition(".")[0] for name in imports(FILES[file], inside_functions=False)}
    assert roots & HEAVY == set()


def test_nor_through_others() -> None:
    modules = sorted(f"ssl_sat.{file[:-3]}".replace("/", ".").removesuffix(".__init__") for file in light())
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    heavy = {HEAVY!r} & set(sys.modules)
    assert not heavy, (module, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
