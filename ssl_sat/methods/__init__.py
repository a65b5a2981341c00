"""Pretraining methods by name: an encoder plus what turns its views into a loss."""

from ssl_sat.methods.spec import DCLSpec, SimCLRSpec
from ssl_sat.registry import Registry

METHODS = Registry("method")
METHODS.add("simclr", "ssl_sat.methods.simclr:build", SimCLRSpec, version=1)
METHODS.add("dcl", "ssl_sat.methods.dcl:build", DCLSpec, version=1)

CODE = ("ssl_sat.methods.contrastive",)  # what methods share, beside the heads, which fine-tuning has too
