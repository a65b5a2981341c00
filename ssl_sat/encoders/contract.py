"""What every encoder promises, and what stages are for.

Stages are ordered from input to output and together hold every parameter exactly once. Progressive unfreezing trains
the last ones first, layer-wise rates decay towards the first, features are taken where they end, all by this list.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Encoder(nn.Module, abc.ABC):
    """forward(x_NCHW) -> h_ND, for normalised images whose channels are `bands` in that order."""

    bands: tuple[str, ...]
    image_size: int
    embed_dim: int

    @abc.abstractmethod
    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return one vector per image."""

    @property
    @abc.abstractmethod
    def stages(self) -> list[tuple[str, nn.Module]]:
        """Named parts, input to output. Setting requires_grad or train mode on one acts on the encoder."""

    def forward_stages(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """Return what every stage gives, by its name, in the network's own layout.

        Maps are (N, C, H, W); tokens of a ViT (N, T, D) with its class token first; maps of a Swin (N, H, W, C). A last
        stage that ends in pooling gives what it has before it, or the pooled (N, D) where there is nothing else.
        """
        outputs: dict[str, Tensor] = {}
        handles = [
            part.register_forward_hook(_note(outputs, name)) for name, stage in self.stages for part in _called(stage)
        ]
        try:
            self(x_NCHW)
        finally:
            for handle in handles:
                handle.remove()
        return {name: outputs[name] for name, _ in self.stages}


class Stage(nn.Module):
    """A view of several modules, and of parameters that hang directly on the encoder, as one stage."""

    def __init__(self, modules: list[nn.Module], parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.loose = nn.ParameterList(parameters)


def _called(stage: nn.Module) -> list[nn.Module]:
    """The modules of a stage that are called: itself, or its parts from the first that holds parameters on."""
    if not isinstance(stage, Stage):
        return [stage]
    parts = list(stage.parts)
    first = next((at for at, part in enumerate(parts) if any(True for _ in part.parameters())), 0)
    return parts[first:]


def _note(outputs: dict[str, Tensor], name: str) -> Callable[..., None]:
    """A hook that keeps the latest output, but no pooled vector in the place of a map."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and (output.ndim > 2 or name not in outputs):
            outputs[name] = output

    return hook


def check_stages(encoder: Encoder) -> None:
    """Raise ValueError unless the stages hold every parameter of the encoder exactly once, under different names."""
    held: list[int] = []
    names = [name for name, _ in encoder.stages]
    if len(set(names)) != len(names):
        raise ValueError(f"stages share a name: {names}")
    for _, stage in encoder.stages:
        held += [id(parameter) for parameter in stage.parameters()]
    for name, parameter in encoder.named_parameters():
        if held.count(id(parameter)) != 1:
            raise ValueError(f"parameter '{name}' is in {held.count(id(parameter))} stages; it must be in exactly one")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed` and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield
