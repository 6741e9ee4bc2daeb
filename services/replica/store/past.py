"""What the volume was at a snapshot, to be compared with a copy of what it is: a sealed layer, read as if it were as
large as the volume is now. What has grown since reads as zeros."""

from __future__ import annotations

from collections.abc import Sequence

from services.replica.store.layer import Layer
from services.replica.store.scattered import Range
from services.replica.store.sums import GROUPS, ZERO_SUM, groups
from stoscore.units import BLOCK_BYTES


class PastBlocks:
    """Event loop's thread, as long as the snapshot is not dropped."""

    __slots__ = ("_layer", "_size_blocks")

    def __init__(self, layer: Layer, size_blocks: int):
        self._layer = layer
        self._size_blocks = size_blocks

    def digests_of(self, level: int, ranges: Sequence[Range]) -> bytes:
        if level == 0:
            return b"".join([self._sums(*part) for part in ranges])
        if level == GROUPS:
            return groups(self._sums, ranges, self._size_blocks)
        tree = self._layer.sums.tree
        return b"".join([tree(level, index, count, self._size_blocks) for index, count in ranges])

    def _sums(self, block: int, count: int) -> bytes:
        inside = self._inside(block, count)
        return (self._layer.sums.read(block, inside) if inside else b"") + ZERO_SUM * (count - inside)

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
