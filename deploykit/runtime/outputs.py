"""What a call to an engine returns."""

from deploykit.util.array_types import Float32Array

EngineOutputs = Float32Array | dict[str, Float32Array]
"""The output of an engine with one output; otherwise the outputs by name."""


def unwrap_single_output(outputs: dict[str, Float32Array]) -> EngineOutputs:
    """Return the array itself if there is only one output, otherwise all outputs by name."""
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))
