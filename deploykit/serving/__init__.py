"""Serve engines with Triton.

- `repository/` writes and checks Triton model repositories: models, configurations and versions.
- `triton/` finds a Triton installation and runs it; `proxy/` stands between it and its clients.
- `python_model` and `decode_model` run inside Triton; `serve` combines everything; `client` sends requests.
"""
