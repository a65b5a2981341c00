"""What a pretraining method is configured by."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

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


class BYOLSpec(Spec):
    """BYOL (Grill et al. 2020). momentum: the target's decay at the start; it rises to 1 over the run."""

    name: Literal["byol"] = "byol"
    momentum: float = Field(0.996, ge=0, le=1)
    head_hidden: int = Field(4096, gt=0)
    head_out: int = Field(256, gt=0)


class SimSiamSpec(Spec):
    """SimSiam (Chen & He 2021)."""

    name: Literal["simsiam"] = "simsiam"
    head_hidden: int = Field(2048, gt=0)
    head_out: int = Field(2048, gt=0)
    predictor_hidden: int = Field(512, gt=0)


class MoCoSpec(Spec):
    """MoCo v2 (Chen et al. 2020).

    queue: keys of earlier batches that serve as negatives, over all devices; more than there are patches would hold a
    query's own patch among them. momentum: decay of the key encoder, constant.
    """

    name: Literal["moco"] = "moco"
    temperature: float = Field(0.2, gt=0)
    queue: int = Field(4096, ge=1)
    momentum: float = Field(0.999, ge=0, le=1)
    head_hidden: int = Field(2048, gt=0)
    head_out: int = Field(128, gt=0)


class BarlowSpec(Spec):
    """Barlow Twins (Zbontar et al. 2021). redundancy_weight: of the features' correlations, the paper's lambda."""

    name: Literal["barlow"] = "barlow"
    redundancy_weight: float = Field(5e-3, gt=0, le=1)
    head_hidden: int = Field(2048, gt=0)
    head_out: int = Field(2048, gt=1)


class VICRegSpec(Spec):
    """VICReg (Bardes et al. 2022); the weights are its lambda, mu and nu."""

    name: Literal["vicreg"] = "vicreg"
    invariance_weight: float = Field(25.0, ge=0)
    variance_weight: float = Field(25.0, ge=0)
    covariance_weight: float = Field(1.0, ge=0)
    head_hidden: int = Field(2048, gt=0)
    head_out: int = Field(2048, gt=1)


class MAESpec(Spec):
    """Masked autoencoder (He et al. 2022), for ViTs. normalise: each token's pixels to mean 0 and variance 1."""

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    normalise: bool = True
    decoder_width: int = Field(512, gt=0)
    decoder_depth: int = Field(8, ge=1)
    decoder_heads: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError(f"decoder_width={self.decoder_width} must be divisible by decoder_heads and by 4")
        return self


class HeadSpec(Spec):
    """Classification head: the study's d-512-256-K with ReLU and dropout, or one linear layer."""

    kind: Literal["mlp", "linear"] = "mlp"
    dropout: float = Field(0.1, ge=0, lt=1)
