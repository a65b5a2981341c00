"""Sources: raw files on disk to patches with named bands, labels, split, place and time."""
