"""Writing a Network and its weights as ONNX, with batch norms folded."""
