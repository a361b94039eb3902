"""Arrays of other libraries: taken as they are, where they are, and answered in kind, without a copy.

On the host whatever speaks DLPack (torch, NumPy itself); on the GPU whatever does so too (cuda-core's
Buffers) or has `__cuda_array_interface__` (PyCUDA's GPUArray). None of these libraries
is imported for it: an array that is here has brought its own.
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

_ON_CUDA = 2  # DLPack's kDLCUDA
LEGACY_STREAM = 1  # as both protocols and the driver name the default stream


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceArray:
    """Memory of a GPU, as `__cuda_array_interface__` describes it.

    Attributes:
        pointer: address of the first value; they lie without gaps.
        stream: the stream on which the values come about, as a handle; None for no such stream.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    stream: int | None

    def as_images(self, shape: tuple[int, ...], dtype: str) -> "DeviceArray":
        """Bytes, which is what cuda-core's Buffers hold, as the images that they are; others as they stand.

        Args:
            shape, dtype: of one image.

        Raises:
            DeployError: they are no whole number of images.
        """
        if len(self.shape) != 1 or self.dtype not in ("int8", "uint8"):
            return self
        image_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        count, rest = divmod(self.shape[0], image_bytes)
        if rest:
            raise DeployError(
                f"{self.shape[0]} bytes are no whole number of images, of {image_bytes} bytes each.",
                code="input-shape-mismatch",
                fix=f"give a buffer of exactly as many bytes as the images, {dtype} {shape}, have",
            )
        return replace(self, shape=(count, *shape), dtype=dtype)


def as_device_array(images: Any) -> DeviceArray | None:
    """What describes images that are on the engines' GPU; None for those on no GPU.

    Raises:
        DeployError: they lie there with gaps, or on another GPU.

    References:
        CUDA Array Interface, version 3, numba.readthedocs.io; DLPack, dmlc.github.io.
    """
    if isinstance(images, np.ndarray):
        return None
    place = _dlpack_device(images)
    if place is not None:
        return _by_dlpack(images, place[1]) if place[0] == _ON_CUDA else None
    described = getattr(images, "__cuda_array_interface__", None)
    if described is None:
        return None
    pointer = int(described["data"][0])
    _require_the_engines_gpu(_ordinal_of(pointer))
    shape, dtype = tuple(described["shape"]), np.dtype(described["typestr"])
    strides = described.get("strides")
    if strides is not None and not _are_packed(tuple(strides), shape, dtype.itemsize):
        raise _gaps()
    return DeviceArray(pointer=pointer, shape=shape, dtype=str(dtype), stream=described.get("stream"))


def _by_dlpack(images: Any, ordinal: int) -> DeviceArray:
    """Its library makes the default stream wait for whatever stream the values come about on."""
    _require_the_engines_gpu(ordinal)
    views = require("cuda.core.utils", extra="gpu").StridedMemoryView
    try:
        view = views.from_dlpack(images, stream_ptr=LEGACY_STREAM)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _refusal(images, error) from error
    shape = tuple(view.shape)
    if view.strides is not None and not _are_packed(tuple(view.strides), shape, 1):
        raise _gaps()
    return DeviceArray(pointer=view.ptr, shape=shape, dtype=str(view.dtype), stream=LEGACY_STREAM)


def _dlpack_device(images: Any) -> tuple[int, int] | None:
    """What kind of place an array is in, by DLPack's numbers, and which of them; None where it can't say."""
    try:
        kind, ordinal = images.__dlpack_device__()
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):  # what libraries raise for it
        return None
    return int(kind), int(ordinal)


def _ordinal_of(pointer: int) -> int | None:
    """Which GPU memory is of; None where CUDA can't tell."""
    try:
        driver = require("cuda.bindings.driver", extra="gpu")
        attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        error, ordinal = driver.cuPointerGetAttribute(attribute, pointer)
    except (DeployError, RuntimeError):  # no cuda-bindings, no driver
        return None
    return None if error else int(ordinal)


def _require_the_engines_gpu(ordinal: int | None) -> None:
    if ordinal not in (None, ORDINAL):
        raise DeployError(
            f"These images are on GPU {ordinal}; engines run on GPU {ORDINAL}.",
            code="array-on-other-gpu",
            fix="bring them over, or make another GPU the first with CUDA_VISIBLE_DEVICES",
        )


def _gaps() -> DeployError:
    return DeployError(
        "These images don't lie in one piece on the GPU.",
        code="array-not-contiguous",
        fix="make them contiguous first",
    )


def as_host_array(images: Any) -> npt.NDArray[Any]:
    """The images as NumPy has them, in the same memory.

    Raises:
        DeployError: they are no array.
    """
    if isinstance(images, np.ndarray):
        return images
    if not hasattr(images, "__dlpack__"):
        raise DeployError(
            f"{type(images).__name__} is no array of images.",
            code="array-unsupported",
            fix="give a NumPy array, or one of a library that speaks DLPack",
        )
    try:
        return np.from_dlpack(images)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _refusal(images, error) from error


def _refusal(images: Any, error: Exception) -> DeployError:
    wants_gradients = getattr(images, "requires_grad", False)
    return DeployError(
        f"These images can't be taken as they are: {str(error).rstrip('.')}.",
        code="array-unsupported",
        fix="detach them first" if wants_gradients else "give them as a NumPy array",
    )


def to_library_of(images: Any, answer: npt.NDArray[np.float32]) -> Any:
    """The answer as the library of the images has arrays, in the same memory."""
    library = _library_of(images)
    if library is np or not hasattr(library, "from_dlpack"):
        return answer
    return library.from_dlpack(answer)


def allocate_in_library_of(images: Any, shape: tuple[int, ...]) -> Any:
    """Uninitialized float32 memory on the GPU where the images are, of their library.

    Raises:
        DeployError: their library is not one that is known.
    """
    library = _library_of(images)
    match library.__name__:
        case "torch":
            return library.empty(shape, dtype=library.float32, device=images.device)
        case "cupy":
            return library.empty(shape, dtype=np.float32)
        case "pycuda":
            return sys.modules["pycuda.gpuarray"].empty(shape, np.float32)
        case "cuda":
            return _buffer(math.prod(shape) * np.dtype(np.float32).itemsize)
    raise DeployError(
        f"Answers can't be given as {library.__name__} has them.",
        code="output-library-unsupported",
        fix="give torch, CuPy, PyCUDA or NumPy arrays, or cuda-core's Buffers",
    )


def _buffer(size: int) -> Any:
    """A Buffer of the current device, of a size in bytes, that any stream may use at once."""
    device = require("cuda.core", extra="gpu").Device()
    device.set_current()  # each thread has to
    stream = device.default_stream
    buffer = device.memory_resource.allocate(size, stream=stream)
    stream.sync()
    return buffer


def _library_of(images: Any) -> Any:
    """The package an array's type comes from, or the type it derives from, that makes arrays."""
    packages = [sys.modules.get(each.__module__.partition(".")[0]) for each in type(images).__mro__]
    return next((each for each in packages if hasattr(each, "from_dlpack")), packages[0])


def _are_packed(strides: tuple[int, ...], shape: tuple[int, ...], step: int) -> bool:
    """Whether neighbours along each axis are as far apart as without gaps; an axis of one has none."""
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
