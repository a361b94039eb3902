"""Checkpoints: read them, recognize their network, translate names from other libraries."""
