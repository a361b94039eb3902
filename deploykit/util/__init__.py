"""Errors, files, JSON, lazy imports and shared types. Nothing here knows about networks."""
