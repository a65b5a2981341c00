"""Diagnosis before a long run: the environment, a data set as unpacked, a finished pack. Torch-free to import."""
