"""What an Engine runs its file by."""

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import Outputs
from deploykit.runtime.tensorrt.layer_profiler import LayerProfiler
from deploykit.runtime.tensorrt.timing import CallTimer


class Runner(Protocol):
    """What runs an engine's own file."""

    def run(self, images: npt.NDArray[Any], profile: int) -> Outputs:
        """Args: profile: which of the manifest's batches the engine is to run by."""

    def used_cuda_graphs(self) -> bool | None:
        """Whether all calls so far were launched as CUDA graphs; None on a CPU."""

    def close(self) -> None: ...


@runtime_checkable
class DeviceRunner(Runner, Protocol):
    """One whose images may be on the GPU already."""

    def run_on_device(
        self, images: DeviceArray, answers: tuple[DeviceArray, ...], profile: int, stream: int | None
    ) -> None:
        """Args: answers: memory for each output."""


@runtime_checkable
class TimingRunner(Runner, Protocol):
    """One that tells what the GPU takes of a call, and each of its layers."""

    def time_calls(self, images: npt.NDArray[Any], profile: int) -> AbstractContextManager[CallTimer]: ...

    def profile_layers(
        self, images: npt.NDArray[Any], profile: int
    ) -> AbstractContextManager[LayerProfiler]: ...
