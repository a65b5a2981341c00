"""Experiment graphs: one YAML states the nodes, the planner names their artifacts, Snakemake runs what is missing."""
