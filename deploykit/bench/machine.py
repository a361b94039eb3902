"""The machine that a measurement ran on, and its state before and after."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import ORDINAL, local_gpu

T = TypeVar("T")

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_MAX_BUSY = 0.1  # share of the cores that other processes may use without disturbing a measurement

# The nvmlClocksEventReason* of NVML that are neither idling nor a setting.
_THROTTLES = {
    "HwPowerBrakeSlowdown": "power brake",
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "too hot, by hardware",
    "SwPowerCap": "power cap",
    "SwThermalSlowdown": "too hot, by software",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The properties of a machine that do not change while it runs.

    Attributes:
        name: Name of the CPU or the GPU.
        cores: CPU cores that this process may use.
        driver: Version of NVIDIA's driver; None for a CPU.
        governor: The kernel's CPU frequency governor; None if the system does not report it.
    """

    kind: Literal["cpu", "gpu"]
    name: str
    cores: Annotated[int, Meta(ge=1, le=1_000_000)]
    system: str
    driver: str | None = None
    governor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """The clocks, temperature and power of the GPU.

    Attributes:
        throttled: Reasons why the clocks are reduced; empty if they are not.
    """

    sm_mhz: int
    memory_mhz: int
    temperature_c: int
    power_w: float
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """The properties of a machine that change.

    Attributes:
        moment_s: Seconds since the machine started.
        cpu_mhz: Median clock of the cores; None if the system does not report it.
        busy_s, own_s: CPU time that all processes, and this process, have used since then.
        load: Average number of processes that ran or waited over the last minute.
        gpu: None without a GPU or without nvidia-ml-py.
    """

    moment_s: float
    cpu_mhz: float | None
    busy_s: float
    own_s: float
    load: float
    gpu: GpuState | None = None


def describe_machine(*, on_cpu: bool) -> Machine:
    """Return the properties of this machine, with its CPU or its GPU."""
    gpu = None if on_cpu else local_gpu()
    return Machine(
        kind="cpu" if gpu is None else "gpu",
        name=_cpu_name() if gpu is None else f"{gpu.name} (SM{gpu.sm})",
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        driver=None if gpu is None else _query_nvml(lambda nvml, _: str(nvml.nvmlSystemGetDriverVersion())),
        governor=_read(_GOVERNOR) or None,
    )


def read_machine_state(*, on_cpu: bool) -> MachineState:
    """Return the current state of this machine."""
    clocks = [float(value) for value in _cpu_facts("cpu MHz")]
    return MachineState(
        moment_s=time.monotonic(),
        cpu_mhz=statistics.median(clocks) if clocks else None,
        busy_s=_busy_s(),
        own_s=time.process_time(),
        load=os.getloadavg()[0],
        gpu=None if on_cpu or local_gpu() is None else _query_nvml(_gpu_state),
    )


def describe_disturbances(machine: Machine, before: MachineState, after: MachineState) -> tuple[str, ...]:
    """Return one sentence for each thing in the state of the machine that makes a measurement doubtful."""
    found = []
    if (others := _busy_by_others(machine, before, after)) > _MAX_BUSY:
        found.append(
            f"Other processes used {100 * others:.0f} % of the {machine.cores} cores during the measurement."
        )
    if machine.kind == "gpu" and (before.gpu is None or after.gpu is None):
        found.append("The GPU's clocks, temperature and power could not be read; install nvidia-ml-py.")
    for each in (before.gpu, after.gpu):
        if each is not None and each.throttled:
            found.append(f"The GPU was throttled ({', '.join(each.throttled)}) at {each.sm_mhz} MHz.")
            break
    if before.gpu and after.gpu and abs(after.gpu.sm_mhz - before.gpu.sm_mhz) > 0.05 * before.gpu.sm_mhz:
        found.append(f"The GPU's clock changed from {before.gpu.sm_mhz} to {after.gpu.sm_mhz} MHz.")
    return tuple(found)


def _busy_by_others(machine: Machine, before: MachineState, after: MachineState) -> float:
    """Return the share of the cores' time that other processes used."""
    seconds = machine.cores * (after.moment_s - before.moment_s)
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return others_s / seconds if seconds else 0.0


def _busy_s() -> float:
    """Return the busy time of the cores that this process may use, s.

    It is the sum of user, nice, system and interrupt time; see proc(5).
    """
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in _read(Path("/proc/stat")).splitlines():
        name, *times = line.split()
        if name in ours:
            user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, times)
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


def _cpu_name() -> str:
    return ", ".join(sorted(set(_cpu_facts("model name")))) or platform.machine()


def _cpu_facts(name: str) -> list[str]:
    """Return a field of /proc/cpuinfo for each core."""
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _gpu_state(nvml: Any, gpu: Any) -> GpuState:
    reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    return GpuState(
        sm_mhz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        memory_mhz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        temperature_c=nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        power_w=nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        throttled=tuple(
            reason
            for name, reason in _THROTTLES.items()
            if reasons & getattr(nvml, f"nvmlClocksEventReason{name}")
        ),
    )


def _query_nvml(query: Callable[[Any, Any], T]) -> T | None:
    """Query NVML about the GPU that engines run on; None if nvidia-ml-py or the driver cannot answer."""
    try:
        nvml = require("pynvml", extra="gpu")
        bus_id = require("cuda.core", extra="gpu").Device(ORDINAL).pci_bus_id
    except DeployError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        return query(nvml, nvml.nvmlDeviceGetHandleByPciBusId(bus_id))
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
