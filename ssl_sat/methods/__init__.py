"""Pretraining methods by name: an encoder plus what turns its views into a loss."""

from ssl_sat.methods.spec import (
    BarlowSpec,
    BYOLSpec,
    DCLSpec,
    MAESpec,
    MoCoSpec,
    SimCLRSpec,
    SimSiamSpec,
    VICRegSpec,
)
from ssl_sat.registry import Registry

METHODS = Registry("method")
METHODS.add("simclr", "ssl_sat.methods.simclr:build", SimCLRSpec, version=1)
METHODS.add("dcl", "ssl_sat.methods.dcl:build", DCLSpec, version=1)
METHODS.add("byol", "ssl_sat.methods.byol:build", BYOLSpec, version=1)
METHODS.add("simsiam", "ssl_sat.methods.simsiam:build", SimSiamSpec, version=1)
METHODS.add("moco", "ssl_sat.methods.moco:build", MoCoSpec, version=1)
METHODS.add("barlow", "ssl_sat.methods.barlow:build", BarlowSpec, version=1)
METHODS.add("vicreg", "ssl_sat.methods.vicreg:build", VICRegSpec, version=1)
METHODS.add("mae", "ssl_sat.methods.mae:build", MAESpec, version=1)

# What methods share, beside the heads, which fine-tuning has too.
CODE = tuple(f"ssl_sat.methods.{name}" for name in ("contrastive", "asymmetric", "covariance"))
