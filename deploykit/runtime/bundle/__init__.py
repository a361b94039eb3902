"""Bundles: one file with a model and plans of it for several GPUs."""
