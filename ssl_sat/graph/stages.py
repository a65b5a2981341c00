"""The stages that a graph may name. Another package adds its own by the entry point group `ssl_sat.stages`."""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import cache

from ssl_sat.spec import ConfigError, suggest
from ssl_sat.stage import Stage

_BUILT_IN = {
    "pack": "ssl_sat.pack:PACK",
    "pretrain": "ssl_sat.pretrain:PRETRAIN",
    "finetune": "ssl_sat.finetune:FINETUNE",
    "compare": "ssl_sat.compare:COMPARE",
    "ood_eval": "ssl_sat.ood_eval:OOD_EVAL",
    "umap_report": "ssl_sat.umap_report:UMAP_REPORT",
    "embed": "ssl_sat.embed:EMBED",
    "score": "ssl_sat.score:SCORE",
    "shift_eval": "ssl_sat.shift_eval:SHIFT_EVAL",
}


@cache
def stage_named(name: str) -> Stage:
    """Import a stage; ConfigError with the nearest name when there is none of that name."""
    target = _BUILT_IN.get(name) or _added().get(name)
    if target is None:
        known = sorted({*_BUILT_IN, *_added()})
        raise ConfigError(f"no stage '{name}' (there are: {', '.join(known)}){suggest(name, known)}")
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def _added() -> dict[str, str]:
    """Scanned for an unknown name alone: it costs a tenth of a second."""
    return {entry.name: entry.value for entry in importlib.metadata.entry_points(group="ssl_sat.stages")}
