"""Checkpoint sources: one file per library that checkpoints come from. Add a new one to registry.py."""
