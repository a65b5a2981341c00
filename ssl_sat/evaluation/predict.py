"""One pass of a network over a data set: features, logits, labels, sample ids and, if asked for, dropout passes.

    predictions = predict(model, batches, device, dataset="eurosat", split="test", classes=classes, ids=ids)
    predictions = predict(..., mc=McDropoutSpec(passes=50), store=folder / "predictions-id")

Every detector, metric and figure reads what comes out; nothing else runs the network. A plain pass and the dropout
passes share all that comes before the first active dropout.
"""  # fmt: skip

# N samples, D features, P inputs of the last layer, K classes

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sat.evaluation.predictions import ArrayWriter, Predictions, check_finite
from ssl_sat.ood.contract import LastLayer
from ssl_sat.ood.spec import McDropoutSpec

__all__ = ["Predictions", "predict"]


def predict(
    model: Any,
    batches: Iterable[tuple[Any, Any, Any]],
    device: Any = "cpu",
    *,
    dataset: str,
    split: str,
    classes: Sequence[str],
    ids: Sequence[str],
    mc: McDropoutSpec | None = None,
    store: Path | None = None,
) -> Predictions:
    """Run `model.features(x)` and `model.head(h)` once over batches of (x_NCHW, rows_N, labels_N).

    `ids[row]` names the sample of a row. `mc` adds Monte-Carlo dropout. With `store` the arrays go to that folder batch
    by batch (memory holds one batch, and those of the dropout passes), and come back memory-mapped.
    The model is in eval mode meanwhile; each module's own mode is restored. Raises UserError when a feature or logit is
    not finite, or when `mc` is asked of a network without dropout.
    """
    import torch

    from ssl_sat.ood.keyed_dropout import frozen_eval
    from ssl_sat.ood.mc_dropout import Sampler, with_last_layer

    rows_of = _Rows(store)
    sampler = Sampler(model, mc) if mc is not None else None
    layer: Any = None
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad() if sampler else torch.inference_mode())
        stack.enter_context(frozen_eval(model) if sampler else _eval(model))
        for x_NCHW, rows_N, labels_N in batches:
            x_NCHW = x_NCHW.to(device)
            if sampler is not None:
                plain = sampler(x_NCHW, rows_N.to(device))
            else:
                features_ND = model.features(x_NCHW)
                plain = with_last_layer(model, model.head, features_ND, features_ND)
            layer = plain.layer
            rows_of.add(plain, labels_N, rows_N, ids, f"{dataset}/{split}")
    if rows_of.empty:
        raise ValueError(f"no batches to predict of {dataset}/{split}")
    arrays = rows_of.arrays()
    names = tuple(str(ids[int(row)]) for row in arrays["rows_N"])
    predictions = Predictions(**arrays, ids=names, classes=tuple(classes), split=split, dataset=dataset)  # type: ignore[arg-type]
    predictions = replace(predictions, last=_last(layer, sampler.last_dropout if sampler else None))
    if sampler is not None:
        first, *others = sampler.results()
        predictions = replace(predictions, mc=first, mc_repeats=tuple(others))
    if store is not None:
        predictions.save(store)
    return predictions


@contextmanager
def _eval(model: Any) -> Iterator[None]:
    """Eval mode; each module's own mode is restored."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Rows:
    """Arrays of a pass, batch by batch: in memory, or in files of a folder."""

    def __init__(self, store: Path | None) -> None:
        self._store = store
        self._found: dict[str, Any] = {}

    @property
    def empty(self) -> bool:
        return not self._found

    def add(self, plain: Any, labels_N: Any, rows_N: Any, ids: Sequence[str], where: str) -> None:
        """Take in a batch; UserError for a sample whose features or logits are not finite."""
        tensors = {"features_ND": plain.features_ND.float(), "logits_NK": plain.logits_NK.float()}
        if plain.hidden_NP is not None and not _same(plain.hidden_NP, plain.features_ND):
            tensors["hidden_NP"] = plain.hidden_NP.float()
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        rows = rows_N.cpu().numpy()
        for name, array in arrays.items():
            check_finite(array, [str(ids[int(row)]) for row in rows], where, name)
        for name, array in {**arrays, "labels_N": labels_N.cpu().numpy(), "rows_N": rows}.items():
            if name not in self._found:
                self._found[name] = [] if self._store is None else ArrayWriter(self._store / f"{name}.npy")
            self._found[name].append(array)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of them, complete."""
        if self._store is None:
            return {name: np.concatenate(parts) for name, parts in self._found.items()}
        return {name: writer.close() for name, writer in self._found.items()}


def _same(a: Any, b: Any) -> bool:
    """Whether two tensors are the same memory: a dropout that does nothing returns its input."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def _last(layer: Any, dropout: float | None) -> LastLayer | None:
    if layer is None:
        return None
    weight_KP = layer.weight.detach().float().cpu().numpy()
    bias_K = (
        layer.bias.detach().float().cpu().numpy() if layer.bias is not None else np.zeros(len(weight_KP), np.float32)
    )
    return LastLayer(weight_KP, bias_K, dropout)
