"""Decide which network to deploy: predict latencies, search scaling coefficients, fit phi to a target."""
