"""Engines in inference servers.

- `repository/` writes and checks what Triton reads: models, their configurations, new versions.
- `triton/` finds a Triton, runs it, and stands between it and its clients.
- `python_model` and `decode_model` are what runs inside of it; `live` puts all together; `client` asks.
"""
