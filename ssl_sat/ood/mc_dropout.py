"""Monte-Carlo dropout (Gal & Ghahramani 2016): T passes with dropout active, and nothing else in training mode.

One plain pass of the network a batch; each dropout pass then costs what comes behind the first active dropout:

    folded    the only dropout stands in front of the last linear layer: masked matrix products, no network
    head      the trunk has none: the head alone, from its first dropout on, many passes in one call
    replay    anywhere else: the network from its first dropout on (`ssl_sat.ood.replay`)
    whole     the whole network, where none of the above gives the same logits

The first three are exact: for some samples of each new size of batch, pass 0 is compared with the whole network's.
"""

# N samples, D features, P inputs of the last layer, K classes, T dropout passes, B rows (one per sample and pass)

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_sat.ood.contract import McResult, NotApplicable
from ssl_sat.ood.keyed_dropout import KeyedDropout, drops_elements, frozen_eval, norm_buffers
from ssl_sat.ood.linear_head import add_passes, folded
from ssl_sat.ood.pass_statistics import McAccumulator, concatenate
from ssl_sat.ood.replay import Replay, ReplayError
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.spec import UserError

_HEAD_ROWS = {"cpu": 4096}  # rows in one call of the head, when passes are batched
_GPU_ROWS = 65_536
_COMPARED = 8  # samples of a batch that the whole network is run on for comparison
_SAME = 1e-5  # passes that differ by less than this part of the largest logit count as identical
WAYS = ("folded", "head", "replay", "whole")


class Plain(NamedTuple):
    """One plain pass: features and head's logits, the last linear layer and its inputs where the logits are its."""

    features_ND: Tensor | None
    logits_NK: Tensor
    hidden_NP: Tensor | None
    layer: nn.Linear | None


def mc_dropout(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    passes: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> McResult:
    """Run `passes` dropout passes over batches of (x_NCHW, rows_N) and return their statistics in batch order.

    `model(x) -> logits_NK`, or `model.features(x)` and `model.head(h)`. Raises UserError when no dropout is active
    or all passes were identical; RuntimeError when a running statistic changed.
    """
    if passes < 2:
        raise UserError(f"mc.passes={passes}: Monte-Carlo dropout needs at least 2 passes")
    sampler = Sampler(model, McDropoutSpec(passes=passes, seed=seed))
    with torch.no_grad(), frozen_eval(model):
        for x_NCHW, rows_N in batches:
            sampler(x_NCHW.to(device), rows_N.to(device))
    return sampler.results()[0]


class Sampler:
    """A plain pass and dropout passes of one network, batch by batch, inside `frozen_eval` and without gradients."""

    def __init__(self, model: nn.Module, spec: McDropoutSpec) -> None:
        self.model, self.spec = model, spec
        self.way: str | None = None
        self._recorded = "whole"
        self._trunk_is_clean = False
        self._replay = Replay(spec.seed)
        self._compared: set[int] = set()
        self._buffers = norm_buffers(model)
        self._spread = 0.0
        self._zeroth_TNK: Tensor | None = None
        self._parts: list[list[McResult]] = [[] for _ in range(spec.repeats)]

    def __call__(self, x_NCHW: Tensor, rows_N: Tensor) -> Plain:
        """Take in a batch; return its plain pass."""
        some_MCHW = x_NCHW[:_COMPARED].clone()
        plain = self._plain(x_NCHW)
        if len(x_NCHW) not in self._compared:
            self._choose(x_NCHW, some_MCHW, rows_N, plain)
            self._compared.add(len(x_NCHW))
        for repeat, parts in enumerate(self._parts):
            accumulator = McAccumulator()
            passes = range(repeat * self.spec.passes, (repeat + 1) * self.spec.passes)
            self._add(accumulator, x_NCHW, rows_N, plain, passes)
            self._spread = max(self._spread, accumulator.spread)
            parts.append(accumulator.result(rows_N, self.spec.seed, self.spec.method))
        return plain

    def results(self) -> list[McResult]:
        """Statistics of all batches, one a repeat. Call it last: it checks that nothing has moved."""
        if not self._parts[0]:
            raise ValueError("mc_dropout got no batches")
        _check_buffers(self._buffers, norm_buffers(self.model))
        if self._spread < _SAME:
            raise NotApplicable(
                f"all {self.spec.passes} dropout passes gave the same logits: the dropout does not reach the output"
            )
        return [concatenate(parts) for parts in self._parts]

    @property
    def last_dropout(self) -> float | None:
        """The rate of the only dropout, where that stands in front of the last linear layer."""
        return self._replay.first[1] if self.way == "folded" and self._replay.first else None

    def _plain(self, x_NCHW: Tensor) -> Plain:
        """The plain pass, recorded as far as the way needs it."""
        self._recorded = "head" if self.way == "head" else "whole"
        if self.way == "head":
            return self._plain_head(self.model.features(x_NCHW))  # type: ignore[operator]
        with self._replay.recording():
            if not divided(self.model):
                return with_last_layer(self.model, self.model, x_NCHW, None)
            features_ND = self.model.features(x_NCHW)  # type: ignore[operator]
            self._trunk_is_clean = self._replay.behind == 0
            return with_last_layer(self.model, self.model.head, features_ND, features_ND)  # type: ignore[arg-type]

    def _plain_head(self, features_ND: Tensor) -> Plain:
        self._recorded = "head"
        with self._replay.recording():
            return with_last_layer(self.model, self.model.head, features_ND, features_ND)  # type: ignore[arg-type]

    def _choose(self, x_NCHW: Tensor, some_MCHW: Tensor, rows_N: Tensor, plain: Plain) -> None:
        """Take the cheapest way whose pass 0 is that of the whole network."""
        if self._replay.behind == 0:
            raise NotApplicable(
                "no dropout is active in this model, so all Monte-Carlo passes would be equal. Train it with"
                " head.dropout > 0 or encoder.dropout > 0, or choose detectors that need no passes (msp, energy, ...)."
            )
        expected_MK = self._whole(some_MCHW, rows_N[:_COMPARED], 0)
        largest = float(expected_MK.abs().max())
        for way in self._possible(plain):
            self.way = way
            if way == "head" and self._recorded != "head":
                assert plain.features_ND is not None
                self._plain_head(plain.features_ND)
            if way == "replay" and self._recorded == "head":
                self._plain(x_NCHW)
            try:
                found_TNK = self._logits(x_NCHW, rows_N, plain, range(1))
            except ReplayError:
                continue
            self._zeroth_TNK = found_TNK if self.way in ("replay", "whole") else None
            if torch.allclose(
                found_TNK[0, :_COMPARED], expected_MK, rtol=1e-4, atol=1e-5 * max(1.0, largest), equal_nan=True
            ):
                break
        if self.spec.method == "moment_matched" and self.way != "folded":
            raise UserError(
                "mc.method=moment_matched is for a dropout in front of a linear head alone, and this network has"
                f" {self._replay.behind} elsewhere or before other layers. Use mc.method=exact."
            )

    def _possible(self, plain: Plain) -> list[str]:
        """The ways that this network may go, the cheapest first; once chosen, only that and slower ones."""
        first, behind = self._replay.first, self._replay.behind
        found = ["replay", "whole"]
        if divided(self.model) and self._trunk_is_clean:
            found.insert(0, "head")
        alone = behind == 1 and first is not None and drops_elements(first[0]) and first[1] < 1
        if alone and plain.hidden_NP is not None and first is not None and first[2] is plain.hidden_NP:
            found.insert(0, "folded")
        return [way for way in found if self.way is None or WAYS.index(way) >= WAYS.index(self.way)]

    def _add(self, accumulator: McAccumulator, x_NCHW: Tensor, rows_N: Tensor, plain: Plain, passes: range) -> None:
        if self.way == "folded":
            assert plain.layer is not None
            assert plain.hidden_NP is not None
            assert self._replay.first is not None
            p, bias_K = self._replay.first[1], _bias(plain.layer)
            add_passes(
                accumulator, plain.hidden_NP, rows_N, plain.layer.weight, bias_K, p, self.spec.seed, passes,
                self.spec.method,
            )  # fmt: skip
            return
        step = self._passes_at_once(len(rows_N), x_NCHW.device.type)
        if passes.start == 0 and self._zeroth_TNK is not None:  # it was run for comparison
            accumulator.add(self._zeroth_TNK)
            self._zeroth_TNK, passes = None, range(1, passes.stop)
        for start in range(passes.start, passes.stop, step):
            accumulator.add(self._logits(x_NCHW, rows_N, plain, range(start, min(start + step, passes.stop))))

    def _passes_at_once(self, samples: int, device: str) -> int:
        if self.way != "head" or not self._replay.rows_repeat(samples):
            return 1
        return max(1, _HEAD_ROWS.get(device, _GPU_ROWS) // max(1, samples))

    def _logits(self, x_NCHW: Tensor, rows_N: Tensor, plain: Plain, passes: range) -> Tensor:
        """Logits (T, N, K) of some passes, by the way that was chosen."""
        if self.way == "folded":
            assert plain.layer is not None
            assert plain.hidden_NP is not None
            assert self._replay.first is not None
            weight_KP, bias_K, p = plain.layer.weight, _bias(plain.layer), self._replay.first[1]
            return folded(plain.hidden_NP, rows_N, weight_KP, bias_K, p, self.spec.seed, passes)
        if self.way == "whole":
            return torch.stack([self._whole(x_NCHW.clone(), rows_N, number) for number in passes])
        count = len(passes)
        passes_B = torch.arange(passes.start, passes.stop, device=rows_N.device).repeat_interleave(len(rows_N))
        self._replay.at(passes_B, rows_N.repeat(count))
        run: Callable[[Tensor], Tensor] = _forward(self.model)
        base = x_NCHW
        if self.way == "head":
            assert plain.features_ND is not None
            run, base = self.model.head, plain.features_ND.repeat(count, 1)  # type: ignore[assignment]
        with self._replay.replaying(count):
            logits_BK = run(base)
        return logits_BK.view(count, len(rows_N), -1)

    def _whole(self, x_NCHW: Tensor, rows_N: Tensor, number: int) -> Tensor:
        mode = KeyedDropout(self.spec.seed)
        mode.at(torch.full_like(rows_N, number), rows_N)
        with mode:
            return self.model(x_NCHW)


def divided(model: nn.Module) -> bool:
    """Whether the trunk and the head of a model can be run apart."""
    return callable(getattr(model, "features", None)) and callable(getattr(model, "head", None))


def _forward(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return (lambda x_NCHW: model.head(model.features(x_NCHW))) if divided(model) else model  # type: ignore[operator]


def with_last_layer(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor, features_ND: Tensor | None) -> Plain:
    """Run a head (or the network) and note the linear layer that its logits come out of, with that layer's inputs."""
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[:] = [(module, inputs[0], output)]  # type: ignore[list-item]

    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        logits_NK = run(x)
    finally:
        for hook in hooks:
            hook.remove()
    if seen and seen[0][2] is logits_NK and logits_NK.ndim == 2:
        return Plain(features_ND, logits_NK, seen[0][1], seen[0][0])
    return Plain(features_ND, logits_NK, None, None)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.out_features)


def _check_buffers(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    if changed:
        raise RuntimeError(
            f"{len(changed)} running statistics of normalisation layers changed during the dropout passes, the first"
            f" '{changed[0]}': a layer left eval mode, and the results depend on the test batches"
        )
