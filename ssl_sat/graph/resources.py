"""What a node asks of a machine or a cluster, and how it is said: in the graph, by stage, or on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from ssl_sat.spec import Spec

FALLBACK = "default"


class Resources(Spec):
    """Devices, cores, memory and time of one node; None is 'not said here'. Nothing of it changes a result.

    gpus: of each machine; more than one goes through torchrun. nodes: machines (launch=slurm alone).
    partition: of Slurm.
    """

    gpus: int | None = Field(None, ge=0)
    nodes: int | None = Field(None, ge=1)
    cpus: int | None = Field(None, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    hours: float | None = Field(None, gt=0)
    partition: str | None = None

    def over(self, below: Resources) -> Resources:
        """These, and what they do not say as `below` has it."""
        said = {name: value for name, value in self.model_dump().items() if value is not None}
        return below.model_copy(update=said)


BUILT_IN: Mapping[str, Resources] = {
    FALLBACK: Resources(gpus=1, nodes=1, cpus=8, memory_gb=32, hours=24),
    "pack": Resources(gpus=0),
    "umap_report": Resources(gpus=0),
}


def resources_of(
    stage: str, command: Mapping[str, Resources], graph: Iterable[Resources | None] = ()
) -> dict[str, Any]:
    """Return what a node asks for. Weightiest first: the command line's for the stage, the graph's own (the node's
    before the stage's), what the package knows of the stage, the command line's default, the package's default.
    """
    layers = [command.get(stage), *graph, BUILT_IN.get(stage), command.get(FALLBACK)]
    found = Resources()
    for layer in [*layers, BUILT_IN[FALLBACK]]:
        found = found.over(layer) if layer is not None else found
    return found.model_dump()
