"""Group a network's layers into blocks by their names."""

import re
from collections.abc import Iterable

# blocks.1.0.conv_pw -> blocks.1.0; layer1.0.downsample.0 -> layer1.0; /layer1/layer1.0/conv1/Conv_output_0
# -> /layer1/layer1.0: up to the last number that is a whole part of the name, unless that is the last part.
_BLOCK = re.compile(r"^(.*[./]\d+)[./].+$")


def block_name(name: str) -> str:
    """Return a layer's name up to its last numbered part; a name without one is its own block."""
    match = _BLOCK.match(name)
    return match[1] if match else name


def group_by_block(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Group layer names by block, keeping their order."""
    blocks: dict[str, tuple[str, ...]] = {}
    for name in names:
        block = block_name(name)
        blocks[block] = (*blocks.get(block, ()), name)
    return blocks
