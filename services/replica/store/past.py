"""What the volume was at a snapshot, to be compared with a copy of what it is: a sealed layer, read as if it were as
large as the volume is now. What has grown since reads as zeros."""

from __future__ import annotations

from collections.abc import Sequence

from services.replica.store.layer import Layer
from services.replica.store.scattered import Range
from services.replica.store.sums import ZERO_SUM
from services.replica.store.tree import Tree
from stoscore.units import BLOCK_BYTES


class PastBlocks:
    """Event loop's thread, as long as the snapshot is not dropped."""

    __slots__ = ("_layer", "_size_blocks")

    def __init__(self, layer: Layer, size_blocks: int):
        self._layer = layer
        self._size_blocks = size_blocks

    def digests_of(self, level: int, ranges: Sequence[Range]) -> bytes:
        return Tree(self._layer.sums, self._size_blocks).digests_of(level, ranges)

    def read_scattered(self, ranges: Sequence[Range]) -> tuple[bytes, bytes | bytearray]:
        """As the store's. Raises CorruptBlocks, StoreError."""
        sums, data = [], []
        for block, count in ranges:
            inside = self._inside(block, count)
            found = self._layer.read(block, inside) if inside else (b"", b"")
            sums.append(found[0] + ZERO_SUM * (count - inside))
            data.append(found[1] + bytes((count - inside) * BLOCK_BYTES))
        return b"".join(sums), b"".join(data)

    def _inside(self, block: int, count: int) -> int:
        return max(0, min(count, self._layer.size_blocks - block))
