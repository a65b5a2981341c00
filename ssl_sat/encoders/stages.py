"""A network of others divided into ordered stages, by its structure and the names of its children alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from ssl_sat.encoders.contract import Stage

Named = tuple[str, nn.Module]

# Children of a timm model whose own children are the steps of the network.
CONTAINERS = ("blocks", "stages", "layers", "features", "network")
NUMBERED = re.compile(r"(layer|stage|stages_|s)\d+")  # children that are a step themselves
LETTERED = re.compile(r"(Mixed_\d|inception\d)[a-z]")  # children that are a part of a step: inception4a ... inception4e


def stages_of(trunk: nn.Module) -> list[Named]:
    """Divide a network into ordered stages that hold every parameter once.

    Children before the first step, and parameters directly on the network (class token, positions), are the stem. Steps
    are each child of a container (blocks, stages, layers, features), each numbered child (`layer1`), and neighbours
    that differ by a letter (`Mixed_5b` to `Mixed_5d`). Single layers in a container are put together: those before its
    first block with the stem (DenseNet), and where it holds nothing else up to each pooling (VGG: block1 to block5).
    Later children with parameters form the last stage.
    """
    before: list[nn.Module] = []
    middle: list[Named] = []
    after: list[Named] = []
    for name, child in _joined(trunk.named_children()):
        leading, steps = _steps(name, child)
        if steps:
            if not middle:
                before += leading
            middle += [*_with_parameters(after), *steps]
            after = []
        elif middle:
            after.append((name, child))
        else:
            before.append(child)
    stem = Stage(before, list(trunk.parameters(recurse=False)))
    parts: list[Named] = [("patch_embed" if hasattr(trunk, "patch_embed") else "stem", stem), *middle]
    if after:
        first = next((name for name, child in after if any(True for _ in child.parameters())), after[0][0])
        parts.append((first, Stage([child for _, child in after], [])))
    return _with_parameters(parts)


def _joined(children: Iterator[Named]) -> list[Named]:
    """Neighbours that differ by a letter as one; poolings stay between them."""
    joined: list[Named] = []
    for name, child in children:
        group = LETTERED.fullmatch(name)
        if group and joined and joined[-1][0] == group[1]:
            joined[-1] = (group[1], Stage([*joined[-1][1].parts, child], []))  # type: ignore[misc]
        else:
            joined.append((group[1], Stage([child], [])) if group else (name, child))
    return joined


def _steps(name: str, child: nn.Module) -> tuple[list[nn.Module], list[Named]]:
    """Single layers that lead a container, and the steps a child stands for; none where it is no container or step."""
    if name not in CONTAINERS:
        is_step = NUMBERED.fullmatch(name) or (isinstance(child, Stage) and LETTERED.fullmatch(f"{name}a"))
        return [], [(name, child)] if is_step else []
    children = list(child.named_children())
    if children and not any(_is_block(step) for _, step in children):
        return [], [(f"block{at + 1}", Stage(layers, [])) for at, layers in enumerate(_up_to_poolings(children))]
    first = next((at for at, (_, step) in enumerate(children) if _is_block(step)), 0)
    steps = [(f"{name}.{key}", step) for key, step in children[first:]]
    return [step for _, step in children[:first]], steps


def _is_block(module: nn.Module) -> bool:
    """Whether it holds layers, as a norm that has its activation inside does not."""
    return any(True for child in module.children() for _ in child.parameters())


def _up_to_poolings(layers: list[Named]) -> Iterator[list[nn.Module]]:
    group: list[nn.Module] = []
    for _, layer in layers:
        group.append(layer)
        if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
            yield group
            group = []
    if group:
        yield group


def _with_parameters(parts: list[Named]) -> list[Named]:
    return [(name, part) for name, part in parts if any(True for _ in part.parameters())]
