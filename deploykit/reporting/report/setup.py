"""A setup: what networks ran on. The figures of one setup form one series."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import Record, describe_execution
from deploykit.reporting.report.engine_facts import short_machine

_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Setup:
    """Family, machine, threads, precision and compiler of a record.

    Attributes:
        how: Number of threads on a CPU; on a GPU whether it used CUDA graphs.
        precision_rank: Position in `fp32`, `fp16`, `int8`, so that setups sort in this order.
    """

    family: str
    machine: str
    cores: int
    how: str
    precision_rank: int
    compiler: str

    @classmethod
    def from_record(cls, record: Record | LayerProfile) -> "Setup":
        """Return the setup of a record."""
        method = record.method if isinstance(record, Record) else record
        return cls(
            family=record.engine.family,
            machine=record.machine.name,
            cores=record.machine.cores,
            how=describe_execution(threads=method.threads, cuda_graph=method.cuda_graph),
            precision_rank=_PRECISIONS.index(record.engine.precision),
            compiler=record.engine.compiler,
        )

    @property
    def precision(self) -> str:
        """`FP32`, `FP16` or `INT8`."""
        return _PRECISIONS[self.precision_rank].upper()

    def title(self, setups: "Sequence[Setup]") -> str:
        """Return the shortest title that distinguishes this setup from the others."""
        return ", ".join(self.title_parts(setups))

    def title_parts(self, setups: "Sequence[Setup]") -> tuple[str, ...]:
        """Return the precision, and whatever else the setups differ in."""
        parts = [self.precision]
        same_machine = [each for each in setups if each.machine == self.machine]
        if len({each.family for each in setups}) > 1:
            parts.insert(0, self.family)
        if len({each.compiler for each in setups}) > 1:
            parts.append(self.compiler)
        if len({each.machine for each in setups}) > 1:
            parts.append(short_machine(self.machine))
        if len({each.cores for each in same_machine}) > 1:
            parts.append(f"{self.cores} cores")
        if len({each.how for each in same_machine}) > 1:
            parts.append(self.how)
        return tuple(parts)
