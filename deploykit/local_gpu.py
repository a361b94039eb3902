"""The NVIDIA GPU of this machine, if it has one."""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGpu:
    """Attributes: name as the driver gives it; sm: compute capability, 75 for 7.5."""

    name: str
    sm: int


@cache
def local_gpu() -> LocalGpu | None:
    """The first GPU the driver shows; None without a GPU, a driver, or cuda-core to ask with."""
    try:
        from cuda.core import Device
    except ImportError:
        return None
    try:
        device = Device(0)
        major, minor = device.compute_capability
        return LocalGpu(name=device.name, sm=10 * major + minor)
    except Exception:  # no driver, no device, a broken driver: cuda-core's errors differ
        return None
