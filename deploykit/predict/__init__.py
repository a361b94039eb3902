"""Latency on a GPU that is not here: what it is, what a network asks of it, how long that takes."""
