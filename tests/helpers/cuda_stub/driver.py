"""Build the stub driver of driver.c, query it, and use memory on its device."""

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAME = "libcuda.so.1"
KINDS = {"device": 0, "pinned": 1}
STREAM_CREATE_NONBLOCKING = 1


def build(folder: Path) -> None:
    """Compile it into a folder for LD_LIBRARY_PATH."""
    source = Path(__file__).with_name("driver.c")
    options = ["-std=gnu11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
    command = ["gcc", *options, f"-Wl,-soname,{NAME}", str(source), "-o", str(folder / NAME), "-pthread"]
    subprocess.run(command, check=True)


@cache
def library() -> Any:
    driver = ctypes.CDLL(NAME)
    driver.stub_count.restype = driver.stub_host_ns.restype = ctypes.c_long
    driver.stub_fault.restype = ctypes.c_char_p
    return driver


def fault() -> str:
    """Return the first fault on the device; empty if there was none."""
    return library().stub_fault().decode()


def count(name: str) -> int:
    """Return how many objects are alive (device, pinned, streams, ...) or how often something happened."""
    number = library().stub_count(name.encode())
    assert number >= 0, name
    return number


def alive() -> dict[str, int]:
    kinds = ("device", "pinned", "streams", "events", "graphs", "executables", "contexts")
    return {kind: count(kind) for kind in kinds}


def limit(kind: str, size_bytes: int) -> None:
    """Set the size of device or pinned memory."""
    library().stub_limit(KINDS[kind], ctypes.c_long(size_bytes))


def pace(
    *,
    launch_us: float = 0,
    copy_us: float = 0,
    model_us: float = 0,
    gpu_copy_us: float = 0,
    gpu_us: float = 0,
) -> None:
    """Set how long operations take on the stub's clocks, which nothing else advances.

    Args:
        launch_us, copy_us, model_us: Host time to enqueue a graph, a copy, or a model without a graph.
        gpu_copy_us, gpu_us: GPU time of a copy and of a model.
    """
    times = (launch_us, copy_us, model_us, gpu_copy_us, gpu_us)
    library().stub_pace(*(ctypes.c_long(round(1000 * each)) for each in times))


def host_s() -> float:
    """Return the time of the stub's host clock."""
    return library().stub_host_ns() / 1e9


def without_memory_pools() -> None:
    ctypes.c_long.in_dll(library(), "stub_memory_pools").value = 0


def move_memory_to(ordinal: int) -> None:
    """Report all memory as that of another device."""
    ctypes.c_int.in_dll(library(), "stub_ordinal").value = ordinal


def call(name: str, *arguments: Any) -> None:
    status = getattr(library(), name)(*arguments)
    assert status == 0, f"{name} gave {status}"


def new_stream() -> int:
    handle = ctypes.c_void_p()
    call("cuStreamCreateWithPriority", ctypes.byref(handle), STREAM_CREATE_NONBLOCKING, 0)
    assert handle.value is not None
    return handle.value


def destroy_stream(stream: int) -> None:
    call("cuStreamDestroy_v2", ctypes.c_void_p(stream))


def synchronize(stream: int) -> None:
    call("cuStreamSynchronize", ctypes.c_void_p(stream))


def is_capturing(stream: int) -> bool:
    status = ctypes.c_int()
    call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
    return status.value != 0


class OnDevice:
    """An array in device memory, like those of CuPy."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, stream: int | None = None) -> None:
        self._describe(shape, dtype, stream)
        pointer = ctypes.c_void_p()
        call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(self._bytes))
        self.pointer = pointer.value

    def _describe(self, shape: tuple[int, ...], dtype: npt.DTypeLike, stream: int | None) -> None:
        self.shape, self.dtype, self.stream = shape, np.dtype(dtype), stream
        self._bytes = self.dtype.itemsize * int(np.prod(shape))
        self._source: npt.NDArray[Any] | None = None

    @classmethod
    def at(cls, pointer: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> "OnDevice":
        """Return an array over memory that it does not own."""
        made = cls.__new__(cls)
        made._describe(shape, dtype, None)
        made.pointer = pointer
        return made

    @classmethod
    def of(cls, values: npt.NDArray[Any], *, stream: int | None = None) -> "OnDevice":
        """Return a copy of values, filled in stream order; at once without a stream."""
        made = cls(values.shape, values.dtype, stream=stream)
        made._source = np.ascontiguousarray(values)  # is kept until then
        made._copy(made.pointer, made._source.ctypes.data, stream or 1)
        if stream is None:
            synchronize(1)
        return made

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "stream": self.stream,
            "version": 3,
        }

    def numpy(self) -> npt.NDArray[Any]:
        """Return the current values without waiting for other streams."""
        values = np.empty(self.shape, self.dtype)
        stream = new_stream()
        self._copy(values.ctypes.data, self.pointer, stream)
        synchronize(stream)
        destroy_stream(stream)
        return values

    def free(self) -> None:
        call("cuMemFree_v2", ctypes.c_void_p(self.pointer))

    def _copy(self, target: int | None, source: int | None, stream: int) -> None:
        addresses = (ctypes.c_void_p(target), ctypes.c_void_p(source))
        call("cuMemcpyAsync", *addresses, ctypes.c_size_t(self._bytes), ctypes.c_void_p(stream))
