"""A stand-in for a TensorRT engine that computes something simple on the stub's device.

It raises an AssertionError for whatever TensorRT's documentation forbids; some of that corrupts memory there.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda_stub.driver import call, count, is_capturing, library

from deploykit.engine.manifest import EngineManifest

MIB = 2**20


def expected(images: npt.NDArray[Any], classes: int) -> npt.NDArray[np.float32]:
    """Return the channel means times (7 class + 3 channel) % 5 - 2; exact for whole numbers."""
    axes = (1, 2) if images.dtype == np.uint8 else (2, 3)
    means = images.astype(np.float64).mean(axis=axes)
    weights = (7 * np.arange(classes)[:, None] + 3 * np.arange(means.shape[1])) % 5 - 2.0
    return (means @ weights.T).astype(np.float32)


class Engine:
    """An engine that counts its calls and fails on request.

    Attributes:
        room: Number of contexts that fit into memory.
        is_capturable: Whether contexts allow executions to be captured.
        refuses: Whether an execution of this shape, captured or not, fails.
        before: Called in each execution, on its thread.
        layers: Names and times, ms, of the layers in each profiled execution, from 0.
        profiles_graphs: Whether graph launches have layer times, as TensorRT's documentation says.
        profiles: The profiles that were set, in order.
        device_memory_size_v2: Bytes of a context's memory.
    """

    device_memory_size_v2 = 48 * MIB

    def __init__(self, manifest: EngineManifest) -> None:
        self.manifest = manifest
        self.room = 1000
        self.is_capturable = True
        self.refuses: Callable[[tuple[int, ...], bool], bool] = lambda shape, capturing: False
        self.before: Callable[[], None] = lambda: None
        self.layers: Callable[[int], list[tuple[str, float]]] = lambda execution: []
        self.profiles_graphs = True
        self.profiles: list[int] = []
        self.executions = 0
        self.made = 0

    @property
    def names(self) -> set[str]:
        return {self.manifest.input.name, *(each.name for each in self.manifest.outputs)}

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(dynamic_shapes_kernel_specialization_strategy=None)

    def create_execution_context(self, config: SimpleNamespace | None = None) -> "Context | None":
        assert (config is not None) == (self.manifest.target.compiler == "tensorrt-rtx")
        if config is not None:
            assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
        if self.made >= self.room:
            return None
        self.made += 1
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._id = engine, library().stub_context_open()
        self._profile = 0
        self._shape: tuple[int, ...] | None = None
        self._ran: tuple[int, tuple[int, ...]] | None = None
        self._addresses: dict[str, int] = {}
        self._busy = threading.Lock()
        self.profiler: Any = None
        self.enqueue_emits_profile = True
        self._reports = 0
        self._reported = (count("executions"), count("launches"))  # by then

    def __del__(self) -> None:
        library().stub_context_close(self._id)

    def is_stream_capturable(self, stream: int) -> bool:
        _require_int(stream)
        return self._engine.is_capturable

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        with self._alone():
            _require_int(profile, stream)
            assert not is_capturing(stream), "profiles change outside of captures"
            if profile not in range(len(self._engine.manifest.batches)):
                return False
            self._engine.profiles.append(profile)
            self._profile, self._shape = profile, None
            self._enqueue(stream, images=0)
            return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._alone():
            assert name == self._engine.manifest.input.name
            assert type(shape) is tuple
            _require_int(*shape)
            self._shape = shape if shape[0] in self._engine.manifest.batches[self._profile] else None
            return self._shape is not None

    def set_tensor_address(self, name: str, address: int) -> bool:
        with self._alone():
            _require_int(address)
            assert name in self._engine.names
            is_live = library().stub_is_live(ctypes.c_void_p(address), ctypes.c_size_t(1))
            assert is_live, f"{name} has no live device memory"
            self._addresses[name] = address
            return True

    def execute_async_v3(self, stream: int) -> bool:
        with self._alone():
            _require_int(stream)
            assert len(self._addresses) == len(self._engine.names), "an address was not set"
            self._engine.before()
            is_captured = is_capturing(stream)
            if self._shape is None or self._engine.refuses(self._shape, is_captured):
                return False
            current = (self._profile, self._shape)
            assert not is_captured or self._ran == current, "captured before it ran once"
            self._ran = current
            self._engine.executions += 1
            self._enqueue(stream, images=self._shape[0])
            return True

    def report_to_profiler(self) -> bool:
        """Report the one execution since the last report; it must have ended."""
        with self._alone():
            assert not self.enqueue_emits_profile, "times were told already"
            before, self._reported = self._reported, (count("executions"), count("launches"))
            has_run = self._reported[0] > before[0]
            was_graph = self._reported[1] > before[1]
            if self.profiler is None or not has_run or (was_graph and not self._engine.profiles_graphs):
                return False
            for name, ms in self._engine.layers(self._reports):
                self.profiler.report_layer_time(name, ms)
            self._reports += 1
            return True

    def _enqueue(self, stream: int, *, images: int) -> None:
        manifest = self._engine.manifest
        is_uint8 = manifest.input.dtype == "uint8"
        shape = (self._shape or (0, *manifest.input.shape))[1:]
        channels = shape[-1 if is_uint8 else 0]
        pixels = int(np.prod(shape)) // channels
        for output in manifest.outputs:
            sizes = (images, channels, pixels, 1 if is_uint8 else 4, output.shape[0])
            names = (manifest.input.name, output.name)
            addresses = (ctypes.c_void_p(self._addresses.get(name)) for name in names)
            call("stub_enqueue", ctypes.c_void_p(stream), self._id, *addresses, (ctypes.c_int * 5)(*sizes))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._busy.acquire(blocking=False), "two threads use one context at a time"
        try:
            yield
        finally:
            self._busy.release()


def _require_int(*values: Any) -> None:
    kinds = {type(value) for value in values}
    assert kinds == {int}, f"{kinds} where an int belongs"
