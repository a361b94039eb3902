"""Read, rewrite and run ONNX models."""
