"""Pretraining methods by name: an encoder plus what turns its views into a loss."""

from ssl_sat.methods.spec import SimCLRSpec
from ssl_sat.registry import Registry

METHODS = Registry("method")
METHODS.add("simclr", "ssl_sat.methods.simclr:build", SimCLRSpec, version=1)
