"""Bundles: one file with a model and its plans for several GPUs."""
