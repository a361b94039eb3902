"""The block a layer is in, by its name."""

import re
from collections.abc import Iterable

# blocks.1.0.conv_pw -> blocks.1.0; layer1.0.downsample.0 -> layer1.0; /layer1/layer1.0/conv1/Conv_output_0
# -> /layer1/layer1.0: up to the last number that is a part of the name by itself, and not the last part.
_BLOCK = re.compile(r"^(.*[./]\d+)[./].+$")


def block_of(name: str) -> str:
    """The name up to its last counted part; a name that counts nothing is its own block."""
    match = _BLOCK.match(name)
    return match[1] if match else name


def by_block(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names in each block, in the order they come."""
    blocks: dict[str, tuple[str, ...]] = {}
    for name in names:
        block = block_of(name)
        blocks[block] = (*blocks.get(block, ()), name)
    return blocks
