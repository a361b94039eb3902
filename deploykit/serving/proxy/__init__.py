"""The proxy in front of Triton: limits, request checks, graceful shutdown."""
