"""Families: one file per family of networks. Add a new one to registry.py."""
