"""Arrays of other libraries: taken as they are, where they are, and answered in kind, without a copy.

On the host whatever speaks DLPack (torch, NumPy itself); on the GPU whatever has
`__cuda_array_interface__` (torch, CuPy, Numba, PyCUDA's GPUArray). No library is imported for it: an
array that is here has brought its own.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import DeployError


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


def device_array(images: Any) -> DeviceArray | None:
    """What describes images that are on a GPU; None for others.

    Raises:
        DeployError: they lie there with gaps.

    References:
        CUDA Array Interface, version 3, numba.readthedocs.io.
    """
    if isinstance(images, np.ndarray):
        return None
    try:
        described = images.__cuda_array_interface__
    except (AttributeError, TypeError, RuntimeError):  # torch's tensors have it, and raise on the CPU
        return None
    shape, dtype = tuple(described["shape"]), np.dtype(described["typestr"])
    strides = described.get("strides")
    if strides is not None and tuple(strides) != _strides(shape, dtype.itemsize):
        raise DeployError("These images don't lie in one piece on the GPU.", fix="make them contiguous first")
    return DeviceArray(
        pointer=int(described["data"][0]),
        shape=shape,
        dtype=str(dtype),
        stream=described.get("stream"),
    )


def host_array(images: Any) -> npt.NDArray[Any]:
    """The images as NumPy has them, in the same memory.

    Raises:
        DeployError: they are no array.
    """
    if isinstance(images, np.ndarray):
        return images
    if not hasattr(images, "__dlpack__"):
        raise DeployError(
            f"{type(images).__name__} is no array of images.",
            fix="give a NumPy array, or one of a library that speaks DLPack",
        )
    try:
        return np.from_dlpack(images)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DeployError(
            f"These images can't be taken as they are: {error}.", fix="detach them, or give a NumPy array"
        ) from error


def in_kind(images: Any, answer: npt.NDArray[np.float32]) -> Any:
    """The answer as the library of the images has arrays, in the same memory."""
    library = _library_of(images)
    if library is np or not hasattr(library, "from_dlpack"):
        return answer
    return library.from_dlpack(answer)


def empty_in_kind(images: Any, shape: tuple[int, ...]) -> Any:
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
    raise DeployError(
        f"Answers can't be given as {library.__name__} has them.",
        fix="give torch, CuPy, PyCUDA or NumPy arrays, or an `out` of your own",
    )


def _library_of(images: Any) -> Any:
    """The package an array's type comes from, or the type it derives from, that makes arrays."""
    packages = [sys.modules.get(each.__module__.partition(".")[0]) for each in type(images).__mro__]
    return next((each for each in packages if hasattr(each, "from_dlpack")), packages[0])


def _strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes between neighbours along each axis, without gaps."""
    strides, step = [], itemsize
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
