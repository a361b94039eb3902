"""Evaluate any artifact: load it, run it on labelled images, compare it with its FP32 reference."""
