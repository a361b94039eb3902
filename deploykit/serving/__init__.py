"""Engines in inference servers: Triton model repositories, a live Triton, a client."""
