"""One pass over a data set: features, logits, labels and sample ids, stored without pickle.

    predictions = predict(model, batches, device, dataset="eurosat", split="test", classes=classes, ids=ids)
    predictions.save(folder / "eurosat-test")      # eurosat-test.safetensors and eurosat-test.json
    Predictions.load(folder / "eurosat-test")
"""  # fmt: skip

# N samples, D features, K classes

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.contract import McResult
from ssl_sat.spec import MissingInput, UserError

_FORMAT = 1
_ARRAYS = ("features_ND", "logits_NK", "labels_N", "rows_N")
_SPLITS = ("train", "val", "test", "ood")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one network says of the samples of one split of one data set, in the order of `rows_N`.

    Labels are class numbers (N,), -1 where there is none, or 0/1 (N, K) for several labels per sample. `ids` are
    names of samples, `classes` those of the K classes; `mc` holds the dropout passes where they were run.
    Raises ValueError when the lengths disagree, and UserError when a feature or logit is not finite.
    """

    features_ND: NDArray[np.float32]
    logits_NK: NDArray[np.float32]
    labels_N: NDArray[Any]
    rows_N: NDArray[np.int64]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    split: str
    dataset: str
    mc: McResult | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in (*_ARRAYS, "ids")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"lengths differ: {lengths}")
        if self.split not in _SPLITS:
            raise ValueError(f"split must be one of {_SPLITS}, not {self.split!r}")
        if self.logits_NK.shape[1] != len(self.classes):
            raise ValueError(f"{self.logits_NK.shape[1]} logits for {len(self.classes)} classes")
        if self.mc is not None and not np.array_equal(self.mc.rows_N, self.rows_N):
            raise ValueError("the dropout passes are of other rows than the predictions")
        for name in ("features_ND", "logits_NK"):
            bad_N = ~np.isfinite(getattr(self, name)).all(axis=1)
            if bad_N.any():
                first = self.ids[int(np.flatnonzero(bad_N)[0])]
                raise UserError(
                    f"{int(bad_N.sum())} of {len(bad_N)} samples of {self.dataset}/{self.split} have {name} that are"
                    f" not finite, the first '{first}'. Look for a diverged training or NaN in the input."
                )

    def __len__(self) -> int:
        return len(self.rows_N)

    def with_mc(self, mc: McResult) -> Predictions:
        """Return the same predictions with the dropout passes added."""
        return replace(self, mc=mc)

    def take(self, at_M: NDArray[Any]) -> Predictions:
        """Return the samples at these positions, or where a mask is true, in that order."""
        at_M = np.flatnonzero(at_M) if at_M.dtype == bool else at_M
        arrays = {name: getattr(self, name)[at_M] for name in _ARRAYS}
        mc = None
        if self.mc is not None:
            mc = replace(self.mc, **{name: value[at_M] for name, value in _mc_arrays(self.mc).items()})  # type: ignore[arg-type]
        return replace(self, **arrays, ids=tuple(self.ids[int(at)] for at in at_M), mc=mc)

    def save(self, stem: Path) -> list[Path]:
        """Write `<stem>.safetensors` (arrays) and `<stem>.json` (names); return both paths."""
        from safetensors.numpy import save_file

        arrays = {name: getattr(self, name) for name in _ARRAYS}
        meta: dict[str, Any] = {"format": _FORMAT, "dataset": self.dataset, "split": self.split}
        if self.mc is not None:
            arrays |= {f"mc.{name}": value for name, value in _mc_arrays(self.mc).items()}
            meta["mc"] = {"passes": self.mc.passes, "seed": self.mc.seed}
        meta |= {"classes": list(self.classes), "ids": list(self.ids)}
        paths = [stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")]
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, paths[0])
        paths[1].write_text(json.dumps(meta, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        return paths

    @classmethod
    def load(cls, stem: Path) -> Predictions:
        """Read what `save` wrote; raises MissingInput or UserError."""
        from safetensors.numpy import load_file

        paths = [stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise MissingInput(f"no {' and '.join(missing)} in {stem.parent}; `python -m ssl_sat.embed` writes them")
        meta = json.loads(paths[1].read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            raise UserError(f"{paths[1]} has format {meta['format']}, this version reads {_FORMAT}; make it again")
        arrays = load_file(paths[0])
        mc = None
        if "mc" in meta:
            found = {name[3:]: value for name, value in arrays.items() if name.startswith("mc.")}
            mc = McResult(**found, **meta["mc"])  # type: ignore[arg-type]
        return cls(
            **{name: arrays[name] for name in _ARRAYS},
            ids=tuple(meta["ids"]),
            classes=tuple(meta["classes"]),
            split=meta["split"],
            dataset=meta["dataset"],
            mc=mc,
        )


def _mc_arrays(mc: McResult) -> dict[str, NDArray[Any]]:
    return {field.name: getattr(mc, field.name) for field in fields(mc) if field.name not in {"passes", "seed"}}


def predict(
    model: Any,
    batches: Iterable[tuple[Any, Any, Any]],
    device: Any = "cpu",
    *,
    dataset: str,
    split: str,
    classes: Sequence[str],
    ids: Sequence[str],
) -> Predictions:
    """Run `model.features(x)` and `model.head(h)` once over batches of (x_NCHW, rows_N, labels_N).

    `ids[row]` names the sample of a row. The model is in eval mode meanwhile; each module's own mode is restored.
    """
    import torch

    modes = {module: module.training for module in model.modules()}
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in _ARRAYS}
    try:
        model.eval()
        with torch.inference_mode():
            for x_NCHW, rows_N, labels_N in batches:
                h_ND = model.features(x_NCHW.to(device))
                outputs = h_ND.float(), model.head(h_ND).float(), labels_N, rows_N
                for name, value in zip(_ARRAYS, outputs, strict=True):
                    found[name].append(value.cpu().numpy())
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not found["rows_N"]:
        raise ValueError(f"no batches to predict of {dataset}/{split}")
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    names = tuple(str(ids[int(row)]) for row in arrays["rows_N"])
    return Predictions(**arrays, ids=names, classes=tuple(classes), split=split, dataset=dataset)  # type: ignore[arg-type]
