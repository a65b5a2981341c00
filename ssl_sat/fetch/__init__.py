"""Fetching published data sets: a catalogue of official files, resumable transfer, safe unpacking. Torch-free."""
