"""The machine a measurement ran on, and what state it was in before and after."""

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
_BUSY = 0.1  # of the cores, by others, from where on a measurement suffers

# NVML's nvmlClocksEventReason* that are neither idling nor a setting.
_THROTTLES = {
    "HwPowerBrakeSlowdown": "power brake",
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "too hot, by hardware",
    "SwPowerCap": "power cap",
    "SwThermalSlowdown": "too hot, by software",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What doesn't change while it runs.

    Attributes:
        name: the processor's, or the GPU's.
        cores: that this process may use.
        driver: NVIDIA's; None for a CPU.
        governor: how the kernel sets the processor's clock; None where it doesn't say.
    """

    kind: Literal["cpu", "gpu"]
    name: str
    cores: Annotated[int, Meta(ge=1, le=1_000_000)]
    system: str
    driver: str | None = None
    governor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """Attributes: throttled: why its clocks are lower than they could be, if they are."""

    sm_mhz: int
    memory_mhz: int
    temperature_c: int
    power_w: float
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """What changes.

    Attributes:
        moment_s: since the machine started.
        cpu_mhz: median of the cores' clocks; None where the system doesn't say.
        busy_s, own_s: how long the cores have worked since then, and how long of it for this process.
        load: processes that ran or waited over the last minute, on average.
        gpu: None without one, or without nvidia-ml-py.
    """

    moment_s: float
    cpu_mhz: float | None
    busy_s: float
    own_s: float
    load: float
    gpu: GpuState | None = None


def describe_machine(*, on_cpu: bool) -> Machine:
    """The CPU or the GPU of this machine, as one that measures."""
    gpu = None if on_cpu else local_gpu()
    return Machine(
        kind="cpu" if gpu is None else "gpu",
        name=_processor() if gpu is None else f"{gpu.name} (SM{gpu.sm})",
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        driver=None if gpu is None else _ask_nvml(lambda nvml, _: str(nvml.nvmlSystemGetDriverVersion())),
        governor=_read(_GOVERNOR) or None,
    )


def read_machine_state(*, on_cpu: bool) -> MachineState:
    """As it is now."""
    clocks = [float(value) for value in _cpu_facts("cpu MHz")]
    return MachineState(
        moment_s=time.monotonic(),
        cpu_mhz=statistics.median(clocks) if clocks else None,
        busy_s=_busy_s(),
        own_s=time.process_time(),
        load=os.getloadavg()[0],
        gpu=None if on_cpu or local_gpu() is None else _ask_nvml(_gpu_state),
    )


def describe_disturbances(machine: Machine, before: MachineState, after: MachineState) -> tuple[str, ...]:
    """What of the machine's state makes a measurement doubtful, a sentence each."""
    found = []
    if (others := _others(machine, before, after)) > _BUSY:
        found.append(f"Other processes used {100 * others:.0f} % of the {machine.cores} cores meanwhile.")
    if machine.kind == "gpu" and (before.gpu is None or after.gpu is None):
        found.append("The GPU's clocks, temperature and power could not be read: nvidia-ml-py does it.")
    for each in (before.gpu, after.gpu):
        if each is not None and each.throttled:
            found.append(f"The GPU was throttled ({', '.join(each.throttled)}) at {each.sm_mhz} MHz.")
            break
    if before.gpu and after.gpu and abs(after.gpu.sm_mhz - before.gpu.sm_mhz) > 0.05 * before.gpu.sm_mhz:
        found.append(f"The GPU's clock went from {before.gpu.sm_mhz} to {after.gpu.sm_mhz} MHz.")
    return tuple(found)


def _others(machine: Machine, before: MachineState, after: MachineState) -> float:
    """The part of the cores' time that other processes had."""
    seconds = machine.cores * (after.moment_s - before.moment_s)
    theirs = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return theirs / seconds if seconds else 0.0


def _busy_s() -> float:
    """Of the cores that this process may use: user, nice, system, interrupts; see proc(5)."""
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in _read(Path("/proc/stat")).splitlines():
        name, *times = line.split()
        if name in ours:
            user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, times)
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    return ", ".join(sorted(set(_cpu_facts("model name")))) or platform.machine()


def _cpu_facts(name: str) -> list[str]:
    """What /proc/cpuinfo says of each core."""
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
            words
            for name, words in _THROTTLES.items()
            if reasons & getattr(nvml, f"nvmlClocksEventReason{name}")
        ),
    )


def _ask_nvml(question: Callable[[Any, Any], T]) -> T | None:
    """NVML's answer of the GPU that engines run on; None where nvidia-ml-py or the driver has none."""
    try:
        nvml = require("pynvml", extra="gpu")
        address = require("cuda.core", extra="gpu").Device(ORDINAL).pci_bus_id
    except DeployError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        return question(nvml, nvml.nvmlDeviceGetHandleByPciBusId(address))
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
