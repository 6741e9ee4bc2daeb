"""Nodes of the hash tree over a layer's sums, as they are asked for by those who compare copies.

    level 0     the sums themselves, one a block
    1           over 256 sums
    2 to 8      over 256 nodes of the level before
    9           over 16 sums
    10          over the sums of a region: its root, which is stored, as far as that says something
    11          over 256 of these

So 9 to 11 and 1 are what two copies of this version compare (`replication/tree.py`), and the regions that they read are
those that differ. Beyond the end of a layer all is absent.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.replica.store.scattered import Range
from services.replica.store.sum_map import SumMap
from services.replica.store.sums import FAN_OUT, GROUP_BLOCKS, node, nodes
from stoscore.units import REGION_BLOCKS, SUM_BYTES

GROUPS, REGIONS = 9, 10
_REGION_LEAVES = REGION_BLOCKS // FAN_OUT


def span_of(level: int) -> int:
    """How many blocks lie below a node of that level."""
    if level == GROUPS:
        return GROUP_BLOCKS
    return int(REGION_BLOCKS * FAN_OUT ** (level - REGIONS) if level >= REGIONS else FAN_OUT**level)


class Tree:
    """Of a volume of that many blocks, whose sums the layer has. Event loop's thread. Raises StoreError."""

    def __init__(self, sums: SumMap, size_blocks: int):
        self._sums = sums
        self._size_blocks = size_blocks
        self._own_blocks = min(size_blocks, sums.regions * REGION_BLOCKS)

    def digests_of(self, level: int, ranges: Sequence[Range]) -> bytes:
        """Of each range of nodes, one behind the other, 8 bytes each. Raises ValueError where there are none."""
        count_max = -(-self._size_blocks // span_of(level))
        for index, count in ranges:
            if index < 0 or count < 1 or index + count > count_max:
                raise ValueError(f"nodes {index} to {index + count} of level {level} which has {count_max}")
        if level == 0 and self._own_blocks == self._size_blocks:
            return self._sums.read_scattered(ranges)
        return b"".join([self._nodes(level, index, count) for index, count in ranges])

    def _nodes(self, level: int, index: int, count: int) -> bytes:
        if level == 0:
            return self._read(index, count)
        if level == GROUPS:
            first = index * GROUP_BLOCKS
            return nodes(self._read(first, min(count * GROUP_BLOCKS, self._size_blocks - first)), GROUP_BLOCKS)
        if level == REGIONS:
            return self._sums.roots_of(index, count)
        if level == 1:
            return self._leaves(index, count)
        below, found = -(-self._size_blocks // span_of(level - 1)), []
        for parent in range(index, index + count):
            first = parent * FAN_OUT
            children = min(FAN_OUT, below - first)
            found.append(node(self._nodes(level - 1, first, children)).to_bytes(SUM_BYTES, "little"))
        return b"".join(found)

    def _leaves(self, index: int, count: int) -> bytes:
        """Region by region, but for those that are absent."""
        first, end = index // _REGION_LEAVES, -(-(index + count) // _REGION_LEAVES)
        roots = memoryview(self._sums.roots_of(first, end - first)).cast("Q")
        found = bytearray((end - first) * _REGION_LEAVES * SUM_BYTES)
        for region in [first + at for at, root in enumerate(roots) if root]:
            values = nodes(self._sums.region(region)[: (self._size_blocks - region * REGION_BLOCKS) * SUM_BYTES])
            at = (region - first) * _REGION_LEAVES * SUM_BYTES
            found[at : at + len(values)] = values
        skip = (index - first * _REGION_LEAVES) * SUM_BYTES
        return bytes(found[skip : skip + count * SUM_BYTES])

    def _read(self, block: int, count: int) -> bytes:
        inside = max(0, min(count, self._own_blocks - block))
        return (self._sums.read(block, inside) if inside else b"") + bytes((count - inside) * SUM_BYTES)
