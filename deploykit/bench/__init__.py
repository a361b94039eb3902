"""Measure engines, and record what was timed, how, and every sample."""
