"""Statistics of latency samples and of classification accuracy."""
