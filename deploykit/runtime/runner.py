"""What an Engine runs its file by."""

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from deploykit.runtime.arrays import DeviceArray
from deploykit.runtime.outputs import Answer
from deploykit.runtime.tensorrt.profiled import ProfiledCall
from deploykit.runtime.tensorrt.timed import TimedCall


class Runner(Protocol):
    """What runs an engine's own file."""

    def run(self, images: npt.NDArray[Any], profile: int) -> Answer:
        """Args: profile: which of the manifest's batches the engine is to run by."""

    def used_graphs(self) -> bool | None:
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
class TimedRunner(Runner, Protocol):
    """One that tells what the GPU takes of a call, and each of its layers."""

    def timed(self, images: npt.NDArray[Any], profile: int) -> AbstractContextManager[TimedCall]: ...

    def profiled(self, images: npt.NDArray[Any], profile: int) -> AbstractContextManager[ProfiledCall]: ...
