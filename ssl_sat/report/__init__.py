"""Reports: figures, projections of features, self-contained HTML pages. Heavy imports stay inside the functions."""
