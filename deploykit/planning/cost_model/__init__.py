"""Predict the latency of a network on a GPU: layers -> kernels -> a roofline per kernel."""
