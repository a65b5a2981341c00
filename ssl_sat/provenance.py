"""Provenance: what made an artifact, and a digest of the code behind it."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PACKAGES = (
    "ssl-sat", "torch", "torchvision", "timm", "lightly", "pytorch-lightning", "numpy", "scipy", "scikit-learn",
    "umap-learn", "rasterio", "pyarrow", "pydantic", "hydra-core", "safetensors",
)  # fmt: skip


def collect() -> dict[str, Any]:
    """Return versions, machine, command line and the state of the git repository that holds the package."""
    return {
        "argv": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpu_count": os.cpu_count(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git": git_state(),
    }


def device_facts() -> dict[str, Any]:
    """Return the devices and the thread count that torch uses; called by stages that import torch anyway."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"gpus": gpus, "cuda": torch.version.cuda if gpus else None, "torch_threads": torch.get_num_threads()}


def git_state() -> dict[str, Any]:
    """Return commit, a digest of the uncommitted difference and the difference itself; empty outside a repository."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or not (root / "pyproject.toml").exists():
        return {}
    commit = _git(root, "rev-parse", "HEAD")
    diff = _git(root, "diff", "HEAD", "--", "ssl_sat", "conf", "experiments")
    digest = hashlib.sha256(diff.encode()).hexdigest() if diff else None
    return {"commit": commit, "diff_sha256": digest, "diff": diff[:200_000]}


def _git(root: Path, *args: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, timeout=20)
        return done.stdout.decode(errors="replace").strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_digests(modules: Iterable[str]) -> dict[str, str]:
    """Map each module to a digest of its code; comments, docstrings and layout do not count."""
    return {module: _code_digest(module) for module in sorted(set(modules))}


def _code_digest(module: str) -> str:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(module)
    return digest_source(Path(found.origin).read_bytes())


def digest_source(source: str | bytes) -> str:
    """Digest of Python source by its syntax tree, with docstrings removed; the same under every version of Python."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = getattr(node.body[0], "value", None) if node.body and isinstance(node.body[0], ast.Expr) else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                node.body = node.body[1:]
    return hashlib.sha256(repr(_shape(tree)).encode()).hexdigest()[:16]


def _shape(node: Any) -> Any:
    """A tree as nested tuples. Empty fields are left out: which of them exist differs between versions of Python."""
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Constant):
        return repr(node.value)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    return (type(node).__name__, *((name, _shape(value)) for name, value in fields))
