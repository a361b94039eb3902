"""Latency on this machine: from its folder of records if it is there, else measured and kept there."""

from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.networks.families.registry import is_builtin
from deploykit.networks.member import Member
from deploykit.planning.latency_source import Latency
from deploykit.planning.recorded_latency import RecordKey, find_by_key, read_latency, read_latency_records
from deploykit.util.progress import Progress, no_progress
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from deploykit.bench.record import Record


class MeasuredLatency:
    """Latency source for this machine; it measures each network once.

    Attributes:
        measurements: How many networks were measured so far, rather than read from the folder.
    """

    is_measuring = True

    def __init__(
        self, gpu: str, *, percentile: float, folder: str | Path, progress: Progress = no_progress
    ) -> None:
        """Read what the folder has for this machine and this compiler.

        Args:
            gpu: `local`, `cpu`, or the name of the GPU in this machine.
            percentile: Which percentile of latency to report, from 0 to 100.
            folder: Where records are read from and written to.
            progress: Called before each measurement.

        Raises:
            DeployError: This machine has no such GPU, or the folder has a damaged record.
        """
        from deploykit.bench.machine import describe_machine
        from deploykit.bench.record import resolve_cpu_threads
        from deploykit.engine.compilers import COMPILERS
        from deploykit.engine.targets import resolve_target
        from deploykit.util.atomic_files import require_writable
        from deploykit.util.lazy_import import require

        self._target = resolve_target(gpu)
        version = require(COMPILERS[self._target.compiler].module).__version__
        self._compiler = f"{self._target.compiler_title} {version}"
        self._machine = describe_machine(on_cpu=self._target.on_cpu).name
        self._gpu, self._percentile, self._folder, self._progress = gpu, percentile, Path(folder), progress
        self.title = self._target.name
        self._threads = resolve_cpu_threads(None) if self._target.on_cpu else None
        self.measurements = 0
        require_writable(self._folder / "record.json", option="--folder")
        self._known = self._read_folder()

    @property
    def candidate_precisions(self) -> tuple[Precision, ...]:
        """INT8 and the default: FP32 on a CPU, FP16 on a GPU."""
        return ("fp32", "int8") if self._target.on_cpu else ("fp16", "int8")

    def resolve_precision(self, requested: Precision | None) -> Precision:
        """Return the requested precision, or the one that suits this machine best.

        Raises:
            DeployError: This machine does not support that precision.
        """
        from deploykit.engine.targets import resolve_precision

        return resolve_precision(self._target, requested)

    def find_latency(self, member: Member, *, precision: Precision, batch: int) -> Latency:
        """Return the latency of a batch; measure it first if the folder does not have it."""
        from deploykit.bench.measure_network import measure_latency
        from deploykit.bench.record_file import write_record

        key = RecordKey.from_member(member, precision=precision, batch=batch)
        record = find_by_key(self._known, key)
        if record is None or not self._is_current(record, member):
            self._progress(f"measuring {member.name}, batch {batch}")
            record = measure_latency(
                member,
                gpu=self._gpu,
                precision=precision,
                batch=batch,
                percentile=self._percentile,
            )
            self.measurements += 1
            write_record(record, self._folder)
            self._known[key] = record
        return read_latency(record, self._percentile, "measured")

    def _is_current(self, record: "Record", member: Member) -> bool:
        """Whether the record measured this very network; a user's family file may have changed since."""
        from deploykit.bench.measure_network import random_model_sha256

        return is_builtin(member.family) or record.engine.onnx_sha256 == random_model_sha256(member)

    def _read_folder(self) -> dict[RecordKey, "Record"]:
        return {
            RecordKey.from_record(record): record
            for record in read_latency_records(self._folder)
            if (record.machine.name, record.engine.compiler, record.method.threads)
            == (self._machine, self._compiler, self._threads)
        }
