"""Errors, files, JSON, lazy imports and shared types; nothing in here knows about networks."""
