"""The NVIDIA GPU of this machine, if it has one."""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deploykit.util.install_hint import install_hint

_DRIVER = Path("/proc/driver/nvidia/version")  # there where the kernel has NVIDIA's driver
_DRIVER_LIBRARY = "libcuda.so.1"
ORDINAL = 0
"""Which GPU is used: the first of those that CUDA_VISIBLE_DEVICES leaves."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGpu:
    """Attributes: name as the driver gives it; sm: compute capability, 75 for 7.5."""

    name: str
    sm: int


@cache
def local_gpu() -> LocalGpu | None:
    """The first GPU the driver shows; None where none shows, with a warning if a driver is there."""
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)  # where that is missing, importing cuda-core only costs time
        from cuda.core import Device

        device = Device(ORDINAL)
        major, minor = device.compute_capability
        return LocalGpu(name=device.name, sm=10 * major + minor)
    except Exception as error:  # cuda-core missing, no driver, no device: the types differ by its version
        if _DRIVER.exists():
            _log.warning(
                "note: This machine has an NVIDIA driver, but its GPU can't be reached (%s): "
                "check nvidia-smi, and that cuda-core is installed: %s.",
                error,
                install_hint("gpu"),
            )
        return None
