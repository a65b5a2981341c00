"""Benchmarks: every figure is a ratio measured side by side in one run. `make bench`, or `python -m benchmarks`."""

# cheap to list: nothing is imported here
BENCHMARKS = ("loading", "views", "loss", "step", "disk_to_views", "ood", "umap", "graph")
