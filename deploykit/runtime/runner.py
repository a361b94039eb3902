"""The interface between an Engine and the backend that runs its file."""

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import EngineOutputs
from deploykit.runtime.tensorrt.layer_profiler import LayerProfiler
from deploykit.runtime.tensorrt.timing import CallTimer


class Runner(Protocol):
    """A backend that runs one engine file."""

    def run(self, images: npt.NDArray[Any], profile: int) -> EngineOutputs:
        """Run images that are in host memory.

        Args:
            profile: Index of the manifest's batch range, which is the optimization profile to run with.
        """

    def used_cuda_graphs(self) -> bool | None:
        """Return whether all calls so far were launched as CUDA graphs; None on a CPU."""

    def close(self) -> None: ...


@runtime_checkable
class DeviceRunner(Runner, Protocol):
    """A runner that also takes images in device memory."""

    def run_on_device(
        self, images: DeviceArray, outputs: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        """Run images that are in device memory.

        Args:
            outputs: Device memory for each output.
            stream: Handle of a CUDA stream to enqueue on; None to wait for the outputs.
        """


@runtime_checkable
class TimingRunner(Runner, Protocol):
    """A runner that can time a call, and each of its layers, on the GPU."""

    def time_calls(self, images: npt.NDArray[Any], profile: int) -> AbstractContextManager[CallTimer]: ...

    def profile_layers(
        self, images: npt.NDArray[Any], profile: int
    ) -> AbstractContextManager[LayerProfiler]: ...
