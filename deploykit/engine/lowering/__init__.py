"""Lower a quantized graph to the form that a compiler turns into fast INT8 kernels."""
