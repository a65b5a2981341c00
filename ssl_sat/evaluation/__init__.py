"""Evaluation: one pass of a network over the data, stored; every metric, detector and figure reads that."""
