"""Networks from scaling to ONNX: families, checkpoints, the torch module, the ONNX writer, export."""
