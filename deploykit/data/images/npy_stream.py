"""Read arrays in NumPy's format from a stream, piece by piece."""

from typing import IO

import numpy as np

NPY_CHUNK_BYTES = 1 << 20


def read_npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic], bool]:
    """Return the shape, the type and whether the order is Fortran's, of the array that follows.

    Raises:
        ValueError: The stream does not hold an array.
    """
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"version {version} of NumPy's format")
    shape, fortran_order, dtype = read[version](member)
    return shape, dtype, fortran_order


def skip_bytes(member: IO[bytes], size: int) -> None:
    """Read and discard size bytes.

    Raises:
        EOFError: The stream ends before.
    """
    while size > 0:
        size -= len(read_exactly(member, min(size, NPY_CHUNK_BYTES)))


def read_exactly(member: IO[bytes], size: int) -> bytes:
    """Return the next size bytes.

    Raises:
        EOFError: The stream ends before.
    """
    content = member.read(size)
    if len(content) != size:
        raise EOFError("truncated")
    return content
