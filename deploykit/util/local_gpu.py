"""Detect the NVIDIA GPU of this machine."""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deploykit.util.install_hint import install_hint

_DRIVER = Path("/proc/driver/nvidia/version")  # exists when NVIDIA's kernel driver is loaded
_DRIVER_LIBRARY = "libcuda.so.1"
ORDINAL = 0
"""The GPU that is used: the first one that CUDA_VISIBLE_DEVICES leaves visible."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGpu:
    """A GPU of this machine.

    Attributes:
        name: The name that the driver reports.
        sm: Compute capability, 75 for 7.5.
    """

    name: str
    sm: int


@cache
def local_gpu() -> LocalGpu | None:
    """Return the first visible GPU, or None. Log a warning if there is a driver but no usable GPU."""
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)  # without this library, importing cuda-core would only cost time
        from cuda.core import Device

        device = Device(ORDINAL)
        major, minor = device.compute_capability
        return LocalGpu(name=device.name, sm=10 * major + minor)
    except Exception as error:  # no cuda-core, driver or device: the type depends on cuda-core's version
        if _DRIVER.exists():
            _log.warning(
                "note: This machine has an NVIDIA driver, but its GPU can't be reached (%s). "
                "Check nvidia-smi, and that cuda-core is installed: %s.",
                error,
                install_hint("gpu"),
            )
        return None
