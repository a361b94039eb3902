"""ONNX -> a compiled engine and its manifest."""
