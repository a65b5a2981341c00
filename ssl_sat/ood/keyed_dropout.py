"""Dropout whose masks are a pure function of (seed, pass, call, sample): no generator, no state.

The network stays wholly in eval mode, so that batch norm uses its running statistics and drop-path is off.
A `TorchFunctionMode` catches every call of a functional dropout (`nn.Dropout` and timm's functional calls both
end there, with `training=False`) and applies our mask instead. A mask belongs to its sample: it does not depend on
the batch the sample is in, on its place there, on the device or on the number of threads.
"""

# B rows of a batch (one per sample and pass)

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssl_sat.spec import UserError

_ELEMENT = {F.dropout: False, F.alpha_dropout: True}
_CHANNEL = {F.dropout1d: False, F.dropout2d: False, F.dropout3d: False, F.feature_alpha_dropout: True}
_RAW = {torch.dropout, torch.dropout_, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout}
_SELU_FLOOR = -1.7580993408473766  # -scale * alpha of SELU, to which alpha dropout sets what it drops
_MASK32 = 0xFFFFFFFF


class KeyedDropout(TorchFunctionMode):
    """Inside this context every dropout with p > 0 is active, with masks keyed by the current samples and passes.

    Call `at(passes_B, rows_B)` before each forward pass. `calls` counts the active dropouts since then.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.calls = 0
        self._keys: tuple[Tensor, Tensor] | None = None

    def at(self, passes_B: Tensor, rows_B: Tensor) -> None:
        """Set the pass and the sample of every row of the coming batch, and start counting calls from 0."""
        self._keys = keys_of(self.seed, passes_B, rows_B)
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if active_dropout(func, args, kwargs):
            return self._drop(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _drop(
        self, func: Callable, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if self._keys is None:
            raise ValueError("KeyedDropout.at(...) must be called before the forward pass")
        channels = func in _CHANNEL
        if channels and input.ndim < 3:
            raise ValueError(f"channel dropout needs an input (N, C, ...), not {tuple(input.shape)}")
        alpha = _ELEMENT.get(func, False) or _CHANNEL.get(func, False)
        low_B, high_B = self._keys
        keys = low_B + self.calls * 0x27D4EB2F, high_B
        self.calls += 1
        if not (alpha or channels) and masks_in_one_go(input, p):
            output = masked_rows(input, *keys, p)
        else:
            keep = keep_mask(input, *keys, p, channels)
            output = _alpha_dropout(input, keep, p) if alpha else _dropout(input, keep, p)
        return input.copy_(output) if inplace else output


def keys_of(seed: int, passes_B: Tensor, rows_B: Tensor) -> tuple[Tensor, Tensor]:
    """The two 32-bit halves of the key of each row, a function of (seed, pass, sample)."""
    return _halves(_mix64(_mix64(rows_B.long() + _wrap(seed * 0x9E3779B97F4A7C15)) ^ passes_B.long()))


def first_call(keys: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The keys of the first dropout of a pass, as `mask_kernel.drop` takes them (int32)."""
    return _spread(keys[0]), _int32(keys[1])


def active_dropout(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call is a dropout with p > 0; UserError for one that no mask of ours can reach."""
    if func in _ELEMENT or func in _CHANNEL:
        p = rate_of(*args, **kwargs)
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, not {p}")
        return p > 0
    if func is F.scaled_dot_product_attention and _attention_p(*args, **kwargs) > 0:
        raise UserError("dropout inside a fused attention kernel has no keyed masks; set fused_attn = False there")
    if func in _RAW:
        raise UserError(f"the model calls torch.{func.__name__} directly; call torch.nn.functional.{func.__name__}")
    return False


def rate_of(input: Tensor, p: float = 0.5, *_: Any, **__: Any) -> float:
    """The rate of a call of a functional dropout."""
    return p


def drops_elements(func: Any) -> bool:
    """Whether a function is the ordinary dropout, element by element."""
    return func is F.dropout


def masks_in_one_go(x: Tensor, p: float) -> bool:
    """Whether the compiled kernel of `mask_kernel` can drop the elements of x: float32 on the CPU, not all dropped."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and p < 1 and not x.requires_grad


def masked_rows(x: Tensor, low_B: Tensor, high_B: Tensor, p: float) -> Tensor:
    """Element dropout of x by the keys of its rows, equal to the general path bit by bit, in one sweep over memory."""
    from ssl_sat.ood.mask_kernel import drop

    flat_BW = x.contiguous().view(len(low_B), _width(x.shape, len(low_B)))
    return drop(flat_BW, _spread(low_B), _int32(high_B), p).view(x.shape)


def keep_mask(x: Tensor, low_B: Tensor, high_B: Tensor, p: float, channels: bool) -> Tensor:
    """Which elements stay, broadcastable to `x`; the rows of x belong to samples in order, several per sample."""
    shape = torch.Size((*x.shape[:2], *([1] * (x.ndim - 2))) if channels else x.shape)
    bits = uniform_bits(low_B, high_B, _width(shape, len(low_B)))
    threshold = round(p * 2**32) - 2**31
    keep = bits >= threshold if threshold < 2**31 else torch.zeros_like(bits, dtype=torch.bool)
    return keep.reshape(shape)


def _width(shape: torch.Size, rows: int) -> int:
    """Elements that belong to one sample."""
    if rows * (shape[0] // max(1, rows)) != shape[0]:
        raise ValueError(f"dropout input {tuple(shape)} does not have the {rows} samples in its first dimension")
    return shape.numel() // max(1, rows)


def _dropout(x: Tensor, keep: Tensor, p: float) -> Tensor:
    return x * (keep.to(x.dtype) / (1 - p)) if p < 1 else torch.zeros_like(x)


def _alpha_dropout(x: Tensor, keep: Tensor, p: float) -> Tensor:
    """Klambauer et al. 2017, section 'New dropout technique': mean and variance stay 0 and 1."""
    if p == 1:
        return torch.zeros_like(x)
    scale = ((1 - p) * (1 + p * _SELU_FLOOR**2)) ** -0.5
    return torch.where(keep, x, x.new_tensor(_SELU_FLOOR)) * scale - scale * p * _SELU_FLOOR


def _attention_p(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, *_: Any, **__: Any
) -> float:
    return dropout_p


def _wrap(value: int) -> int:
    """Bring an integer into the range of int64, modulo 2**64."""
    return (value + 2**63) % 2**64 - 2**63


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix64(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014), on int64 that wraps round."""
    x = x + _wrap(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _wrap(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _wrap(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return (x & _MASK32), _shift(x, 32)


def _int32(x: Tensor) -> Tensor:
    return ((x + 2**31) % 2**32 - 2**31).to(torch.int32)


def uniform_bits(low_B: Tensor, high_B: Tensor, width: int) -> Tensor:
    """32 uniform bits (as int32) for each of `width` elements of each row: two rounds of a 32-bit mixer.

    The mixer is 'lowbias32' of Wellons (2018); the high half of the key enters between the rounds.
    """
    at_W = torch.arange(width, dtype=torch.int32, device=low_B.device) * -1640531527  # 2**32 / golden ratio
    x = at_W[None, :] ^ _spread(low_B)[:, None]
    x = _round32(x)
    return _round32(x.add_(_int32(high_B)[:, None]))


def _spread(low_B: Tensor) -> Tensor:
    """The low half of the key, mixed with the number of the call, as int32."""
    return _int32(_halves(_mix64(low_B))[0])


def _round32(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 16) & 0xFFFF)).mul_(0x7FEB352D)
    x = (x ^ ((x >> 15) & 0x1FFFF)).mul_(0x846CA68B - 2**32)
    return x ^ ((x >> 16) & 0xFFFF)


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Put the model wholly in eval mode and its attention on the path with a dropout module; restore both at the end.

    Raises UserError for layers whose dropout cannot be reached in eval mode, or whose batch norm has no
    running statistics (it would normalise by the test batch).
    """
    modes = {module: module.training for module in model.modules()}
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False) is True and _drops(module)]
    for name, module in model.named_modules():
        _refuse(name, module)
    try:
        model.eval()
        for module in fused:
            module.fused_attn = False  # type: ignore[assignment]
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]
        for module, mode in modes.items():
            module.training = mode


def _drops(attention: nn.Module) -> bool:
    """Whether an attention drops weights; one without a dropout module to ask is taken to."""
    dropout = getattr(attention, "attn_drop", None)
    return not isinstance(dropout, nn.Dropout) or dropout.p > 0


def _refuse(name: str, module: nn.Module) -> None:
    hidden = module.dropout if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) else 0.0
    if isinstance(module, nn.TransformerEncoderLayer):  # its fast path in eval mode never calls its dropout modules
        hidden = max(module.dropout.p, module.dropout1.p, module.dropout2.p)
    if hidden > 0:
        raise UserError(
            f"layer '{name}' ({type(module).__name__}) hides its dropout from eval mode; set its dropout to 0, or use"
            " timm's attention"
        )
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        raise UserError(f"batch norm '{name}' has no running statistics, so its output depends on the test batch")


def norm_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all running statistics of the model, by name."""
    norms = (nn.modules.batchnorm._NormBase,)
    return {
        f"{name}.{key}": buffer.detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, norms)
        for key, buffer in module.named_buffers(recurse=False)
    }
