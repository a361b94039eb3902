"""Arrays in numpy's format, read from a stream piece by piece."""

from typing import IO

import numpy as np

NPY_CHUNK_BYTES = 1 << 20


def read_npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic], bool]:
    """Shape, type, and whether the first index changes fastest, of the array that follows.

    Raises:
        ValueError: no array does.
    """
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"version {version} of numpy's format")
    shape, columns_first, dtype = read[version](member)
    return shape, dtype, columns_first


def skip_bytes(member: IO[bytes], size: int) -> None:
    while size > 0:
        size -= len(read_exactly(member, min(size, NPY_CHUNK_BYTES)))


def read_exactly(member: IO[bytes], size: int) -> bytes:
    content = member.read(size)
    if len(content) != size:
        raise EOFError("cut short")
    return content
