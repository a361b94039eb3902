"""Report what a compiler built: layers, precisions, memory traffic."""
