"""From a compute budget to a served model: scale, export, quantize, compile, measure, fit."""

__version__ = "0.1.0"
