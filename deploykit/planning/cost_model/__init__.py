"""Predict latency on a GPU from published latencies on others."""
