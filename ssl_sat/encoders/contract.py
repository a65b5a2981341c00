"""What every encoder promises, and what stages are for.

Stages are ordered from input to output and together hold every parameter exactly once. Progressive unfreezing trains
the last ones first, layer-wise rates decay towards the first, both by this list alone.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager

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


class Stage(nn.Module):
    """A view of several modules, and of parameters that hang directly on the encoder, as one stage."""

    def __init__(self, modules: list[nn.Module], parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.loose = nn.ParameterList(parameters)


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
