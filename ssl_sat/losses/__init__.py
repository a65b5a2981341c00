"""Losses as functions of embeddings, and the measures that tell whether embeddings have collapsed."""

CODE = tuple(f"ssl_sat.losses.{name}" for name in ("nt_xent", "dcl", "contrastive", "tiles", "gather", "collapse"))
