"""Rates of a phase: one for the head, one for the encoder or one per layer, each along the phase's curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from ssl_sat.encoders.layers import depths
from ssl_sat.optim import build_optimizer
from ssl_sat.optim.schedule import curve
from ssl_sat.optim.spec import OptimSpec
from ssl_sat.spec import ConfigError
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.finetune_spec import Phase, ScheduleSpec


@dataclass(frozen=True)
class Leg:
    """A phase in its place among the others.

    before: epochs planned before it, so that no two epochs share order, views or dropout. schedule, start, length: the
    curve of its rate, the epoch at which the phase enters that curve, and the epochs that it spans; a phase that
    continues the schedule of another shares one curve with it.
    """

    name: str
    phase: Phase
    before: int
    schedule: ScheduleSpec
    start: int
    length: int


def legs(phases: dict[str, Phase]) -> list[Leg]:
    """Return the phases in their places."""
    curves: list[list[str]] = []
    for name, phase in phases.items():
        if phase.schedule == "continue":
            curves[-1].append(name)
        else:
            curves.append([name])
    found, before = [], 0
    for together in curves:
        first, start = phases[together[0]].schedule, 0
        assert isinstance(first, ScheduleSpec)
        length = sum(phases[name].epochs for name in together)
        for name in together:
            found.append(Leg(name, phases[name], before, first, start, length))
            start, before = start + phases[name].epochs, before + phases[name].epochs
    return found


def scales(model: Classifier, phase: Phase) -> dict[str, float]:
    """Return the factor on the phase's rate for every parameter that trains.

    head 1; encoder encoder_lr / lr; with layer-wise decay times layer_decay ** (layers between the parameter's and the
    head, plus one), as in BEiT (Bao et al. 2022) and timm's param_groups_layer_decay.
    """
    own = 1.0 if phase.encoder_lr is None else phase.encoder_lr / phase.lr
    depth_of, count = depths(model.encoder) if phase.layer_decay is not None else ({}, 0)  # type: ignore[arg-type]
    decay = 1.0 if phase.layer_decay is None else phase.layer_decay

    def scale(name: str) -> float:
        if name.startswith("head."):
            return 1.0
        return own * decay ** (count - depth_of[name.removeprefix("encoder.")]) if depth_of else own

    return {name: scale(name) for name, p in model.named_parameters() if p.requires_grad}


def optimizer_of(model: Classifier, phase: Phase, optim: OptimSpec, batch_size: int) -> Optimizer:
    """A fresh optimiser over what trains, in groups of one rate each, the highest first."""
    factors, named = scales(model, phase), dict(model.named_parameters())
    groups = [
        {"named_params": [(name, named[name]) for name in factors if factors[name] == factor], "lr_scale": factor}
        for factor in sorted(set(factors.values()), reverse=True)
    ]
    return build_optimizer(optim.model_copy(update={"lr": phase.lr}), groups, batch_size)


def curve_of(leg: Leg, optim: OptimSpec, per_epoch: int) -> Callable[[int], float]:
    """The factor on the peak rate as a function of the phase's own steps, counted from 0."""
    spec, total, first = leg.schedule, leg.length * per_epoch, leg.start * per_epoch
    epochs = optim.warmup_epochs if spec.warmup_epochs is None else spec.warmup_epochs
    warmup = round(epochs * per_epoch)
    if warmup >= total:
        raise ConfigError(
            f"phases.steps.{leg.name}: a warm-up of {epochs:g} epochs leaves nothing of {leg.length} for training; set "
            f"optim.warmup_epochs={leg.length / 10:.1g} or so"
        )
    milestones = (leg.length / 2, leg.length * 3 / 4) if spec.milestones is None else spec.milestones
    steps = [round(epoch * per_epoch) for epoch in milestones]

    def factor(step: int) -> float:
        return curve(spec.name, first + step, total, warmup, floor=spec.floor, gamma=spec.gamma, milestones=steps)

    return factor


def moments(optimizer: Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What an optimiser remembers of every parameter, flat, by `<parameter>|<moment>`."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{name_of[id(parameter)]}|{moment}": value.detach().cpu().contiguous()
        for parameter, held in optimizer.state.items()
        for moment, value in held.items()
        if isinstance(value, torch.Tensor)
    }


def continue_from(optimizer: Optimizer, model: torch.nn.Module, found: dict[str, torch.Tensor]) -> int:
    """Give an optimiser the moments of parameters that trained before; return of how many parameters."""
    named: dict[str, Any] = dict(model.named_parameters())
    ours = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    kept = set()
    for key, value in found.items():
        name, _, moment = key.rpartition("|")
        parameter = named[name]
        if id(parameter) in ours:
            optimizer.state[parameter][moment] = _beside(parameter, value, bool(optimizer.defaults.get("fused")))
            kept.add(name)
    return len(kept)


def _beside(parameter: torch.Tensor, value: torch.Tensor, fused: bool) -> torch.Tensor:
    """A moment on its parameter's device and in its memory layout, which fused steps rely on; counters as torch's."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device if fused else "cpu", copy=True)
