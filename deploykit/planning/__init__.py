"""Find the largest network that meets latency, throughput, memory and accuracy targets on a GPU."""
