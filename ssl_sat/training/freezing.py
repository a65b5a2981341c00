"""What trains in a phase: parameters by stage, layer or name, and the mode that every layer is in."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_sat.encoders.layers import depths
from ssl_sat.spec import ConfigError, suggest
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.finetune_spec import Phase, PhasesSpec


def set_trainable(model: Classifier, phase: Phase, where: str = "phase") -> int:
    """Let what the phase names train and freeze the rest; return the number of parameters that train.

    `where` names the phase in errors. Raises ConfigError for a name that the network has not, for more stages than
    there are, and where nothing is left to train.
    """
    trains = trainable(model, phase, where)
    if not trains:
        raise ConfigError(f"{where}: nothing is left to train; shorten {where}.freeze")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trains)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def trainable(model: Classifier, phase: Phase, where: str = "phase") -> set[str]:
    """Names of the parameters that train: those of `train`, corrected by `unfreeze` and `freeze`."""
    trains = _chosen(model, phase, where)
    covered = {name: _covered(model, name, f"{where}.unfreeze") for name in phase.unfreeze}
    covered |= {name: _covered(model, name, f"{where}.freeze") for name in phase.freeze}
    for freed, frozen in product(phase.unfreeze, phase.freeze):
        if covered[freed] == covered[frozen]:
            raise ConfigError(f"{where}: '{freed}' and '{frozen}' are the same parameters, which cannot do both")
    for name in sorted(covered, key=lambda name: -len(covered[name])):  # whoever covers fewer comes later, and decides
        trains = trains | covered[name] if name in phase.unfreeze else trains - covered[name]
    return trains


def _chosen(model: Classifier, phase: Phase, where: str) -> set[str]:
    everything = [name for name, _ in model.named_parameters()]
    head = {name for name in everything if name.startswith("head.")}
    if phase.train == "all":
        return set(everything)
    if phase.train == "head":
        return head
    k = 1 if phase.train == "last_stage" else phase.k
    parts = _parts(model, phase)
    if not isinstance(k, int) or k > len(parts):
        raise ConfigError(f"{where}.k={k}: the encoder has {len(parts)} {phase.unit}; choose 1 to {len(parts)}")
    return head.union(*parts[-k:])


def _parts(model: Classifier, phase: Phase) -> list[set[str]]:
    """Parameters of each stage or layer of the encoder, input to output; closing norms go with what is before them."""
    if phase.unit == "layers" and phase.train != "last_stage":
        depth_of, count = depths(model.encoder)  # type: ignore[arg-type]
        return [{f"encoder.{name}" for name, at in depth_of.items() if at == depth} for depth in range(count)]
    parts: list[set[str]] = []
    for _, stage in stages(model):
        names = names_of(model, stage.parameters())
        if parts and all(p.ndim < 2 for p in stage.parameters()):
            parts[-1] |= names
        else:
            parts.append(names)
    return parts


def stages(model: Classifier) -> list[tuple[str, nn.Module]]:
    """The encoder's stages by name."""
    return model.encoder.stages  # type: ignore[return-value]


def names_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> set[str]:
    """The names under which a network knows these parameters."""
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def _covered(model: Classifier, name: str, where: str) -> set[str]:
    """Parameters of a stage, of the head, of the encoder, or of a module or parameter within; ConfigError for none."""
    by_name = dict(stages(model))
    if name in by_name:
        return names_of(model, by_name[name].parameters())
    roots = (name, f"encoder.{name}", f"encoder.trunk.{name}")
    found = {key for key, _ in model.named_parameters() if any(key == r or key.startswith(f"{r}.") for r in roots)}
    if found:
        return found
    raise ConfigError(
        f"{where}: no layer '{name}' (there are {', '.join(by_name)}, head, and modules within, as {_example(model)})"
        f"{suggest(name, [*by_name, 'head'])}"
    )


def _example(model: Classifier) -> str:
    """A name of a layer within a stage."""
    names = (
        name.removeprefix("trunk.") for name, module in model.encoder.named_modules() if not list(module.children())
    )
    return next((name for name in names if name.count(".") >= 2), "head.layers.0")


def expanded(phases: PhasesSpec, model: Classifier) -> dict[str, Phase]:
    """The phases with `k: each` made one of every k, and all names in them checked before anything trains."""
    found: dict[str, Phase] = {}
    for name, phase in phases.steps.items():
        if phase.train == "last_k" and phase.k == "each":
            every = range(1, len(_parts(model, phase)) + 1)
            found |= {f"{name}_{k}": phase.model_copy(update={"k": k}) for k in every}
        else:
            found[name] = phase
    for name, phase in found.items():
        set_trainable(model, phase, f"phases.steps.{name}")
    return found


def train_mode(model: Classifier, phase: Phase) -> None:
    """Put the stages of which something trains in train mode and the rest in eval; batch norm as the phase says.

    A frozen stage has no dropout either. What lies outside of all stages (dropout before the head) goes with the last.
    """
    model.eval()
    inside: set[int] = set()
    active = False
    for _, stage in stages(model):
        active = any(p.requires_grad for p in stage.parameters())
        stage.train(active)
        inside |= {id(module) for module in stage.modules()}
    for module in model.encoder.modules():
        if id(module) not in inside:
            module.training = active
    model.head.train(any(p.requires_grad for p in model.head.parameters()))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.training = _batch_norm_trains(module, phase)


def _batch_norm_trains(module: Any, phase: Phase) -> bool:
    if phase.batch_norm != "follow":
        return phase.batch_norm == "train"
    return module.weight.requires_grad if module.affine else module.training
