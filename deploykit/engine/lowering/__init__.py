"""Rewrite a quantized graph into the form that a compiler turns into fast INT8 kernels."""
