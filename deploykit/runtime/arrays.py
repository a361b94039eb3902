"""Take arrays of other libraries where they are, without a copy, and return arrays of the same library.

On the host, arrays come through DLPack (torch, NumPy itself). On the GPU, they come through DLPack
(cuda-core's Buffers too) or `__cuda_array_interface__` (PyCUDA's GPUArray). This module imports none of
these libraries: whoever passes an array has imported its library.
"""

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import ORDINAL

_DLPACK_CUDA = 2  # DLPack's kDLCUDA
LEGACY_STREAM = 1  # handle of the legacy default stream, in both protocols and in the driver


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceArray:
    """An array in GPU memory, as `__cuda_array_interface__` describes it.

    Attributes:
        pointer: Address of the first value; the values are contiguous.
        stream: Handle of the stream that produces the values; None if there is none to wait for.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    stream: int | None

    def as_images(self, shape: tuple[int, ...], dtype: str) -> "DeviceArray":
        """View bytes, which is what cuda-core's Buffers hold, as images; return other arrays unchanged.

        Args:
            shape, dtype: Shape and type of one image.

        Raises:
            DeployError: The bytes are not a whole number of images.
        """
        if len(self.shape) != 1 or self.dtype not in ("int8", "uint8"):
            return self
        image_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        count, rest = divmod(self.shape[0], image_bytes)
        if rest:
            raise DeployError(
                f"A buffer of {self.shape[0]} bytes is not a whole number of images of {image_bytes} "
                "bytes each.",
                code="input-shape-mismatch",
                fix=f"pass a buffer that holds exactly the images, {dtype} {shape} each",
            )
        return replace(self, shape=(count, *shape), dtype=dtype)


def as_device_array(images: Any) -> DeviceArray | None:
    """Describe images that are on the engines' GPU; return None for images on the host.

    Raises:
        DeployError: The images are not contiguous, or are on another GPU.

    References:
        CUDA Array Interface, version 3, numba.readthedocs.io; DLPack, dmlc.github.io.
    """
    if isinstance(images, np.ndarray):
        return None
    place = _dlpack_device(images)
    if place is not None:
        return _from_dlpack(images, place[1]) if place[0] == _DLPACK_CUDA else None
    interface = getattr(images, "__cuda_array_interface__", None)
    if interface is None:
        return None
    pointer = int(interface["data"][0])
    _require_engine_gpu(_gpu_ordinal(pointer))
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None and not _is_contiguous(tuple(strides), shape, dtype.itemsize):
        raise _not_contiguous_error()
    return DeviceArray(pointer=pointer, shape=shape, dtype=str(dtype), stream=interface.get("stream"))


def _from_dlpack(images: Any, ordinal: int) -> DeviceArray:
    """Describe a DLPack array; its library makes the default stream wait for the stream that fills it."""
    _require_engine_gpu(ordinal)
    views = require("cuda.core.utils", extra="gpu").StridedMemoryView
    try:
        view = views.from_dlpack(images, stream_ptr=LEGACY_STREAM)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _unsupported_error(images, error) from error
    shape = tuple(view.shape)
    if view.strides is not None and not _is_contiguous(tuple(view.strides), shape, 1):
        raise _not_contiguous_error()
    return DeviceArray(pointer=view.ptr, shape=shape, dtype=str(view.dtype), stream=LEGACY_STREAM)


def _dlpack_device(images: Any) -> tuple[int, int] | None:
    """Return the device type and ordinal of an array in DLPack's numbers; None if it has none."""
    try:
        kind, ordinal = images.__dlpack_device__()
    except (
        AttributeError,
        BufferError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # different libraries raise different errors
        return None
    return int(kind), int(ordinal)


def _gpu_ordinal(pointer: int) -> int | None:
    """Return the ordinal of the GPU that the memory belongs to; None if CUDA cannot tell."""
    try:
        driver = require("cuda.bindings.driver", extra="gpu")
        attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        error, ordinal = driver.cuPointerGetAttribute(attribute, pointer)
    except (DeployError, RuntimeError):  # no cuda-bindings, no driver
        return None
    return None if error else int(ordinal)


def _require_engine_gpu(ordinal: int | None) -> None:
    if ordinal not in (None, ORDINAL):
        raise DeployError(
            f"The images are on GPU {ordinal}, but engines run on GPU {ORDINAL}.",
            code="array-on-other-gpu",
            fix="copy them to that GPU, or select another GPU with CUDA_VISIBLE_DEVICES",
        )


def _not_contiguous_error() -> DeployError:
    return DeployError(
        "The images are not contiguous in GPU memory.",
        code="array-not-contiguous",
        fix="make them contiguous first, for example images.contiguous() in torch",
    )


def as_host_array(images: Any) -> npt.NDArray[Any]:
    """Return images in host memory as a NumPy array that shares their memory.

    Raises:
        DeployError: They are not an array that NumPy can share.
    """
    if isinstance(images, np.ndarray):
        return images
    if not hasattr(images, "__dlpack__"):
        raise DeployError(
            f"{type(images).__name__} is not an array of images.",
            code="array-unsupported",
            fix="pass a NumPy array, or an array of a library that supports DLPack",
        )
    try:
        return np.from_dlpack(images)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _unsupported_error(images, error) from error


def _unsupported_error(images: Any, error: Exception) -> DeployError:
    wants_gradients = getattr(images, "requires_grad", False)
    return DeployError(
        f"These images cannot be used without a copy: {str(error).rstrip('.')}.",
        code="array-unsupported",
        fix="detach them first: images.detach()" if wants_gradients else "pass them as a NumPy array",
    )


def to_library_of(images: Any, output: npt.NDArray[np.float32]) -> Any:
    """Return the output as an array of the library that the images come from, in the same memory."""
    library = _find_library(images)
    if library is np or not hasattr(library, "from_dlpack"):
        return output
    return library.from_dlpack(output)


def allocate_in_library_of(images: Any, shape: tuple[int, ...]) -> Any:
    """Allocate uninitialized float32 memory on the images' GPU, as an array of their library.

    Raises:
        DeployError: The library is not supported.
    """
    library = _find_library(images)
    match library.__name__:
        case "torch":
            return library.empty(shape, dtype=library.float32, device=images.device)
        case "cupy":
            return library.empty(shape, dtype=np.float32)
        case "pycuda":
            return sys.modules["pycuda.gpuarray"].empty(shape, np.float32)
        case "cuda":
            return _allocate_buffer(math.prod(shape) * np.dtype(np.float32).itemsize)
    raise DeployError(
        f"Outputs cannot be returned as {library.__name__} arrays.",
        code="output-library-unsupported",
        fix="pass arrays of torch, CuPy, PyCUDA or NumPy, or cuda-core Buffers",
    )


def _allocate_buffer(size: int) -> Any:
    """Allocate a Buffer of this many bytes on the current device; any stream may use it at once."""
    device = require("cuda.core", extra="gpu").Device()
    device.set_current()  # each thread must
    stream = device.default_stream
    buffer = device.memory_resource.allocate(size, stream=stream)
    stream.sync()
    return buffer


def _find_library(images: Any) -> Any:
    """Return the package that the array's type, or a base of it, comes from and that can make arrays."""
    packages = [sys.modules.get(each.__module__.partition(".")[0]) for each in type(images).__mro__]
    return next((each for each in packages if hasattr(each, "from_dlpack")), packages[0])


def _is_contiguous(strides: tuple[int, ...], shape: tuple[int, ...], step: int) -> bool:
    """Return whether the strides leave no gaps; axes of size one may have any stride."""
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
