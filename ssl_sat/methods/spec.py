"""What a pretraining method is configured by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_sat.spec import Spec


class ContrastiveSpec(Spec):
    """What SimCLR and DCL are configured by.

    views: of a patch in a step, 2 in the papers. head_hidden: width of the projection head's hidden layer, null for the
    encoder's own (d-d-128, the paper's); the study's README states 512-512-128, which is 512 on a 512-feature input.
    head_batch_norm: batch norm after the head's linear layers, as in the authors' code.
    """

    temperature: float = Field(0.5, gt=0)
    views: int = Field(2, ge=2)
    head_hidden: int | None = Field(None, gt=0)
    head_out: int = Field(128, gt=0)
    head_batch_norm: bool = True


class SimCLRSpec(ContrastiveSpec):
    """SimCLR (Chen et al. 2020)."""

    name: Literal["simclr"] = "simclr"


class DCLSpec(ContrastiveSpec):
    """DCL (Yeh et al. 2022)."""

    name: Literal["dcl"] = "dcl"
    temperature: float = Field(0.1, gt=0)


class HeadSpec(Spec):
    """Classification head: the study's d-512-256-K with ReLU and dropout, or one linear layer."""

    kind: Literal["mlp", "linear"] = "mlp"
    dropout: float = Field(0.1, ge=0, lt=1)
