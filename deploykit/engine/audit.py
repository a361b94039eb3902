"""What the compiler really made, read from its own log, and whether that is what was asked for.

TensorRT-RTX logs each compiled layer, at VERBOSE with detailed profiling, as

    Name: ..., LayerType: correlation, Inputs: [ { ..., Datatype: Int8, ...} ], Constants: [...], ...

where `correlation` is a convolution and `gemm` a matrix product. This needs no GPU, which reading
the finished engine would.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from deploykit.errors import DeployError
from deploykit.model_file import Precision

LAYER_LINE = re.compile(r"^Name: .+?, LayerType: (\w+), Inputs: \[(.*?)\], Constants:")
_DATATYPE = re.compile(r"Datatype: (\w+)")
_FIXES: dict[Precision, str] = {
    "int8": "leave out --int8-policy and --int8-include; if they weren't there, report this with the model",
    "fp16": "build with another precision, and report this with the model",
    "fp32": "build with another precision, and report this with the model",
}
_MATRIX_LAYERS = frozenset({"correlation", "gemm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Layers of a compiled engine.

    Attributes:
        source: `builder log`, or `onnx graph` where nothing was compiled.
        layers: all of them.
        int8, fp16, fp32: convolutions and matrix products by the type of what they read.
    """

    source: str
    layers: int
    int8: int
    fp16: int
    fp32: int

    def summary(self) -> str:
        return (
            f"{self.layers} layers; convolutions and matrix products: {self.int8} INT8, {self.fp16} FP16, "
            f"{self.fp32} FP32 ({self.source})"
        )

    def require(self, precision: Precision, *, planned_int8: int = 1) -> None:
        """Fails where the engine is not of that precision.

        Args:
            planned_int8: how many products the graph spells out in INT8.

        Raises:
            DeployError: less INT8 than planned, or anything but FP16 in an FP16 engine, and so on.
        """
        right = {
            "int8": self.int8 >= planned_int8,
            "fp16": self.fp16 > 0 and self.int8 == self.fp32 == 0,
            "fp32": self.fp32 > 0 and self.int8 == self.fp16 == 0,
        }
        if not right[precision]:
            raise DeployError(
                f"The compiler was asked for {precision.upper()} and made something else: {self.summary()}.",
                fix=_FIXES[precision],
            )


def audit_log(lines: Iterable[str]) -> Audit:
    """Counts the compiled layers in the builder's log."""
    matches = [match for line in lines if (match := LAYER_LINE.match(line))]
    types = Counter(_first_datatype(match[2]) for match in matches if match[1] in _MATRIX_LAYERS)
    return Audit(
        source="builder log",
        layers=len(matches),
        int8=types["Int8"],
        fp16=types["Half"],
        fp32=types["Float"],
    )


def _first_datatype(inputs: str) -> str:
    found = _DATATYPE.search(inputs)
    return found[1] if found else "none"
