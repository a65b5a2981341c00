"""What comes before the first active dropout is computed once, however many passes follow. Exact, for any network.

A plain pass is recorded: every call of a torch function up to the first active dropout, and which tensors are still
alive there. A dropout pass then runs the same Python code, but up to that point each call returns what it returned
before: tensors that are still alive (a copy was kept), and NaN of the right shape for those that nobody can read any
more. From the dropout on everything is computed. So the cost of a pass is that of the part behind the first dropout,
and memory holds what crosses the border (the input of the dropout, a residual branch), not the network's activations.

Work that is hidden from torch's dispatch of functions (a custom autograd.Function in front of the dropout) would be fed
NaN; the first pass of a batch size is therefore compared with one of the whole network, see `mc_dropout`.
"""

# N samples of a batch, B = N times the passes of one call

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssl_sat.ood.keyed_dropout import KeyedDropout, active_dropout, rate_of


class ReplayError(RuntimeError):
    """The network took another way than when it was recorded."""


class _Absent(NamedTuple):
    """A tensor that was computed before the border and is read by nobody behind it."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class _Kept(NamedTuple):
    """A tensor that is alive at the border: its number in the list of copies."""

    number: int


class Replay(KeyedDropout):
    """A plain pass inside `recording()`, then dropout passes inside `replaying(count)`, as after `KeyedDropout.at`."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.behind = 0  # active dropouts of the recorded pass
        self._phase = "live"
        self._log: list[tuple[Any, Any]] = []
        self._copies: list[Tensor] = []
        self._written: bool | None = None  # whether a pass writes into what crosses the border; then each has copies
        self.first: tuple[Any, float, Tensor] | None = None  # function, rate and input of the first dropout

    @contextmanager
    def recording(self) -> Iterator[Replay]:
        """Record a plain pass, in which no dropout acts."""
        self._log, self._copies, self.first, self.behind, self._phase = [], [], None, 0, "record"
        try:
            with self:
                yield self
        finally:
            self._phase = "live"

    @contextmanager
    def replaying(self, count: int = 1) -> Iterator[None]:
        """Compute from the first dropout on. With `count` > 1 the recorded rows stand that often in a batch."""
        self._phase, self._step, self._count = "replay", 0, count
        self._handed = self._copies if self._written is False else _copies(self._copies)
        self._repeated: dict[int, Tensor] = {}
        versions = [tensor._version for tensor in self._handed]
        try:
            with self:
                yield
        finally:
            self._phase = "live"
        written = [tensor._version for tensor in self._handed] != versions
        if written and self._written is False:
            raise ReplayError("a pass writes into tensors that it shares with others")
        if count == 1:
            self._written = written

    def rows_repeat(self, rows: int) -> bool:
        """Whether several passes can stand in one batch: nothing in front of the dropout asked for a shape."""
        fine = (_Absent, _Kept, nn.Parameter, type(None), bool, torch.dtype, torch.device)
        return all(isinstance(output, fine) for _, output in self._log) and all(
            copy.ndim > 0 and len(copy) == rows for copy in self._copies
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._phase == "live":
            return super().__torch_function__(func, types, args, kwargs)
        if self._phase == "replay":
            return self._replayed(func, types, args, kwargs)
        if active_dropout(func, args, kwargs):
            x = args[0] if args else kwargs["input"]
            if not self.behind:
                self.first = (func, rate_of(*args, **kwargs), x)
                self._seal()
            self.behind += 1
            return x
        output = func(*args, **kwargs)
        if not self.behind:
            self._log.append((func, _mapped(_watched, output)))
        return output

    def _replayed(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if self._step == len(self._log):
            if not active_dropout(func, args, kwargs):
                raise ReplayError(f"{func} where a dropout was recorded")
            self._phase = "live"
            return super().__torch_function__(func, types, args, kwargs)
        recorded, output = self._log[self._step]
        if recorded != func:
            raise ReplayError(f"{func} where {recorded} was recorded")
        self._step += 1
        return _mapped(self._given, output)

    def _given(self, leaf: Any) -> Any:
        if isinstance(leaf, _Kept):
            kept = self._handed[leaf.number]
            if self._count == 1:
                return kept
            if leaf.number not in self._repeated:
                self._repeated[leaf.number] = kept.repeat(self._count, *[1] * (kept.ndim - 1))
            return self._repeated[leaf.number]
        if isinstance(leaf, _Absent):
            nothing = math.nan if leaf.dtype.is_floating_point else 0
            shape = (leaf.shape[0] * self._count, *leaf.shape[1:]) if leaf.shape else leaf.shape
            return torch.full((), nothing, dtype=leaf.dtype, device=leaf.device).expand(shape)
        return leaf

    def _seal(self) -> None:
        """Copy what is alive at the border; from here on the recorded pass may write where it likes."""
        alive: dict[int, _Kept] = {}
        originals: list[Tensor] = []

        def settled(leaf: Any) -> Any:
            if not isinstance(leaf, _Watched):
                return leaf
            tensor = leaf.tensor()
            if tensor is None:
                return leaf.absent
            if isinstance(tensor, nn.Parameter):
                return tensor
            if id(tensor) not in alive:
                alive[id(tensor)] = _Kept(len(originals))
                originals.append(tensor)
            return alive[id(tensor)]

        self._log = [(func, _mapped(settled, output)) for func, output in self._log]
        self._copies = _copies(originals)


class _Watched:
    """A tensor, not kept alive, with what it looks like."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.absent = _Absent(tensor.shape, tensor.dtype, tensor.device)


def _watched(leaf: Any) -> Any:
    return _Watched(leaf) if isinstance(leaf, Tensor) else leaf


def _mapped(change: Callable[[Any], Any], output: Any) -> Any:
    """Apply `change` to what a torch function returned, or to each part of it."""
    if type(output) in (tuple, list):
        return type(output)(_mapped(change, part) for part in output)
    if type(output).__module__ == "torch.return_types":
        return type(output)([_mapped(change, part) for part in output])
    return change(output)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """Clone tensors; those that share memory share it afterwards too."""
    shared: dict[int, Tensor] = {}
    storages = [tensor.untyped_storage().data_ptr() for tensor in tensors]
    found = []
    for tensor, storage in zip(tensors, storages, strict=True):
        if storages.count(storage) == 1:
            found.append(tensor.clone())
            continue
        if storage not in shared:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            shared[storage] = tensor.as_strided((size,), (1,), 0).clone()
        found.append(shared[storage].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset()))
    return found
