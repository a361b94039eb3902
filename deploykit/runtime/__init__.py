"""Run engines. This package imports neither torch, nor onnx, nor the command line."""

from deploykit.runtime.engine import Engine

__all__ = ["Engine"]
