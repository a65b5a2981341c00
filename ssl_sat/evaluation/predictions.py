"""What one network says of one data set, stored so that nobody has to run the network again.

    predictions.save(folder / "predictions-id")      # a folder of .npy arrays and predictions.json
    Predictions.load(folder / "predictions-id")      # the arrays are memory-mapped
"""  # fmt: skip

# N samples, D features, P inputs of the last layer, K classes

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.ood.contract import LastLayer, McResult
from ssl_sat.spec import MissingInput, UserError

_FORMAT = 2
_ARRAYS = ("features_ND", "logits_NK", "labels_N", "rows_N")
_NAMES = "predictions.json"
_SPLITS = ("train", "val", "test", "ood")
_CHECKED = 4096  # rows looked at together for what is not finite


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one network says of the samples of one split of one data set, in the order of `rows_N`.

    Labels are class numbers (N,), -1 where there is none, or 0/1 (N, K) for several labels per sample. `ids` are
    names of samples, `classes` those of the K classes. `mc` holds the dropout passes where they were run, and
    `mc_repeats` the same with other masks; `members` what an ensemble says of the same samples. `last` is the layer
    that the logits come from, `hidden_NP` its inputs where these are not the features.
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
    hidden_NP: NDArray[np.float32] | None = None
    last: LastLayer | None = None
    mc_repeats: tuple[McResult, ...] = ()
    members: McResult | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in self._arrays().items()} | {"ids": len(self.ids)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"lengths differ: {lengths}")
        if self.split not in _SPLITS:
            raise ValueError(f"split must be one of {_SPLITS}, not {self.split!r}")
        if self.logits_NK.shape[1] != len(self.classes):
            raise ValueError(f"{self.logits_NK.shape[1]} logits for {len(self.classes)} classes")
        for result in self._sampled().values():
            if not np.array_equal(result.rows_N, self.rows_N):
                raise ValueError("the dropout passes are of other rows than the predictions")
        for name in ("features_ND", "logits_NK", "hidden_NP"):
            if getattr(self, name) is not None:
                check_finite(getattr(self, name), self.ids, f"{self.dataset}/{self.split}", name)

    def __len__(self) -> int:
        return len(self.rows_N)

    @property
    def penultimate_NP(self) -> NDArray[np.float32] | None:
        """Inputs of the last linear layer, None where the head does not end in one."""
        if self.last is None:
            return None
        return self.features_ND if self.hidden_NP is None else self.hidden_NP

    def with_mc(self, mc: McResult) -> Predictions:
        """Return the same predictions with the dropout passes added."""
        return replace(self, mc=mc)

    def over_masks(self) -> list[Predictions]:
        """These predictions with each set of dropout passes in the place of `mc`: the first, then the repeats."""
        return [self.with_mc(mc) for mc in (self.mc, *self.mc_repeats) if mc is not None]

    def with_members(self, others: Sequence[Predictions]) -> Predictions:
        """Return the same predictions with what all networks together say: this one and the others.

        The others are predictions of the same rows in the same order with the same classes, or ValueError.
        """
        from ssl_sat.ood.ensemble import ensemble_statistics

        for other in others:
            if not np.array_equal(other.rows_N, self.rows_N) or other.classes != self.classes:
                raise ValueError(f"members of an ensemble must see the same samples and classes ({self.dataset})")
        return replace(self, members=ensemble_statistics([p.logits_NK for p in (self, *others)], self.rows_N))

    def take(self, at_M: NDArray[Any]) -> Predictions:
        """Return the samples at these positions, or where a mask is true, in that order."""
        at_M = np.flatnonzero(at_M) if at_M.dtype == bool else at_M
        arrays: dict[str, Any] = {name: np.asarray(value[at_M]) for name, value in self._arrays().items()}
        taken = {name: _taken(result, at_M) for name, result in self._sampled().items()}
        return replace(
            self,
            **arrays,
            ids=tuple(self.ids[int(at)] for at in at_M),
            mc=taken.get("mc"),
            members=taken.get("members"),
            mc_repeats=tuple(taken[f"mc_repeat{n}"] for n in range(len(self.mc_repeats))),
        )

    def save(self, folder: Path) -> list[Path]:
        """Write one .npy an array and `predictions.json` into a folder of this name; return the paths."""
        arrays = self._arrays()
        for name, result in self._sampled().items():
            arrays |= {f"{name}.{key}": value for key, value in _parts(result)[0].items()}
        if self.last is not None:
            arrays |= {"last.weight_KP": self.last.weight_KP, "last.bias_K": self.last.bias_K}
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, value in arrays.items():
            path = folder / f"{name}.npy"
            paths.append(path)
            if not _is_file(value, path):  # written while it was predicted
                np.save(path, np.ascontiguousarray(value), allow_pickle=False)
        paths.append(folder / _NAMES)
        paths[-1].write_text(json.dumps(self._names(), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        return paths

    @classmethod
    def load(cls, folder: Path) -> Predictions:
        """Read what `save` wrote, arrays memory-mapped; raises MissingInput or UserError."""
        if not (folder / _NAMES).is_file():
            return cls._of_format_1(folder)
        names = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
        if names["format"] != _FORMAT:
            raise UserError(f"{folder} has format {names['format']}, this version reads {_FORMAT}; make it again")
        missing = sorted(f"{name}.npy" for name in names["arrays"] if not (folder / f"{name}.npy").is_file())
        if missing:
            raise MissingInput(f"{folder} lacks {', '.join(missing)}; run again the stage that made it")
        arrays: dict[str, Any] = {name: _mapped(folder / f"{name}.npy") for name in names["arrays"]}
        sampled = {name: _result(arrays, name, meta) for name, meta in names["sampled"].items()}
        last = None
        if "last.weight_KP" in arrays:
            last = LastLayer(arrays["last.weight_KP"], arrays["last.bias_K"], names["last_dropout"])
        return cls(
            **{name: arrays[name] for name in _ARRAYS},
            hidden_NP=arrays.get("hidden_NP"),
            ids=tuple(names["ids"]),
            classes=tuple(names["classes"]),
            split=names["split"],
            dataset=names["dataset"],
            last=last,
            mc=sampled.get("mc"),
            members=sampled.get("members"),
            mc_repeats=tuple(result for name, result in sampled.items() if name.startswith("mc_repeat")),  # in order
        )

    @classmethod
    def _of_format_1(cls, stem: Path) -> Predictions:
        """What earlier versions stored: `<stem>.safetensors` and `<stem>.json`. Artifacts are never written again."""
        from safetensors.numpy import load_file

        paths = [stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")]
        if not all(path.is_file() for path in paths):
            raise MissingInput(
                f"no predictions at {stem} (no {_NAMES} in it); the stages finetune and ood_eval write them"
            )
        names = json.loads(paths[1].read_text(encoding="utf-8"))
        arrays: dict[str, Any] = load_file(paths[0])
        return cls(
            **{name: arrays[name] for name in _ARRAYS},
            ids=tuple(names["ids"]),
            classes=tuple(names["classes"]),
            split=names["split"],
            dataset=names["dataset"],
            mc=_result(arrays, "mc", names["mc"]) if "mc" in names else None,
        )

    def _arrays(self) -> dict[str, NDArray[Any]]:
        found = {name: getattr(self, name) for name in _ARRAYS}
        return found if self.hidden_NP is None else {**found, "hidden_NP": self.hidden_NP}

    def _sampled(self) -> dict[str, McResult]:
        named = {"mc": self.mc, "members": self.members}
        named |= {f"mc_repeat{n}": result for n, result in enumerate(self.mc_repeats)}
        return {name: result for name, result in named.items() if result is not None}

    def _names(self) -> dict[str, Any]:
        sampled = {name: _parts(result) for name, result in self._sampled().items()}
        last = [] if self.last is None else ["last.weight_KP", "last.bias_K"]
        return {
            "format": _FORMAT,
            "dataset": self.dataset,
            "split": self.split,
            "arrays": [*self._arrays(), *(f"{n}.{key}" for n, parts in sampled.items() for key in parts[0]), *last],
            "sampled": {name: meta for name, (_, meta) in sampled.items()},
            "last_dropout": self.last.dropout if self.last else None,
            "classes": list(self.classes),
            "ids": list(self.ids),
        }


def check_finite(values_ND: NDArray[Any], ids: Sequence[str], where: str, what: str) -> None:
    """Raise UserError naming the first sample whose values are not all finite; reads a few thousand rows at a time."""
    bad: list[int] = []
    for start in range(0, len(values_ND), _CHECKED):
        fine_N = np.isfinite(values_ND[start : start + _CHECKED]).all(axis=1)
        bad += (start + np.flatnonzero(~fine_N)).tolist()
    if bad:
        raise UserError(
            f"{len(bad)} of {len(values_ND)} samples of {where} have {what} that are"
            f" not finite, the first '{ids[bad[0]]}'. Look for a diverged training or NaN in the input."
        )


class ArrayWriter:
    """A .npy file that grows by rows: its header is written again, with the number of rows, at the end."""

    def __init__(self, path: Path) -> None:
        self.path, self._shape, self._dtype = path, (0,), np.dtype(np.float32)
        self._file: Any = None

    def append(self, rows_N: NDArray[Any]) -> None:
        """Add rows; the first decide dtype and width."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")
            self._shape, self._dtype = (0, *rows_N.shape[1:]), rows_N.dtype
            self._header()
        if rows_N.shape[1:] != self._shape[1:] or rows_N.dtype != self._dtype:
            raise ValueError(f"{self.path}: rows {rows_N.dtype}{rows_N.shape} after {self._dtype}{self._shape}")
        self._file.write(np.ascontiguousarray(rows_N).data)
        self._shape = (self._shape[0] + len(rows_N), *self._shape[1:])

    def close(self) -> NDArray[Any]:
        """Complete the header and return the array, memory-mapped."""
        self._file.seek(0)
        self._header()
        self._file.close()
        return _mapped(self.path)

    def _header(self) -> None:
        """Of the same length for any number of rows: numpy leaves room for the first axis to grow."""
        described = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, described)


def _mapped(path: Path) -> NDArray[Any]:
    """The array of a file; an empty one cannot be mapped."""
    empty = path.stat().st_size <= 128  # the header alone
    return np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)


def _is_file(value: NDArray[Any], path: Path) -> bool:
    return (
        isinstance(value, np.memmap) and value.filename is not None and Path(value.filename).resolve() == path.resolve()
    )


def _parts(result: McResult) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays of a result, and the rest of it."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return arrays, {name: value for name, value in values.items() if name not in arrays}


def _taken(result: McResult, at_M: NDArray[Any]) -> McResult:
    arrays, _ = _parts(result)
    return replace(result, **{name: np.asarray(value[at_M]) for name, value in arrays.items()})  # type: ignore[arg-type]


def _result(arrays: Mapping[str, NDArray[Any]], name: str, meta: Mapping[str, Any]) -> McResult:
    mine = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
    return McResult(**mine, **meta)  # type: ignore[arg-type]
