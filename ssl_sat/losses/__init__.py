"""Losses as functions of embeddings, and the measures that tell whether embeddings have collapsed."""
