"""Measures engines: what was timed, how, and every sample."""
