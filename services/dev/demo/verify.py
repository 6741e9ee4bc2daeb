"""What really is on disk: each copy read from its replica's directory, compared with the others and with what
was written.

The reading is done by `stos store digest`, a process of its own that opens the directory and computes every
block's checksum from the data: the running replicas are not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from stoscore.units import SUM_BYTES

_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Copy:
    """One replica's checksums, in the order of its blocks: u64 little-endian, 0 for a block of zeros."""

    node: str
    sums: bytes

    def __post_init__(self) -> None:
        if len(self.sums) % SUM_BYTES:
            raise ValueError(f"{len(self.sums)} bytes are not whole checksums")

    @property
    def blocks(self) -> int:
        return len(self.sums) // SUM_BYTES


def differing_blocks(one: Copy, other: Copy) -> list[int]:
    """Blocks with different content. Raises ValueError when the copies have different sizes."""
    if one.blocks != other.blocks:
        raise ValueError(f"{one.node} has {one.blocks} blocks, {other.node} has {other.blocks}")
    if one.sums == other.sums:
        return []
    pairs = zip(memoryview(one.sums).cast("Q"), memoryview(other.sums).cast("Q"), strict=True)
    return [block for block, (a, b) in enumerate(pairs) if a != b]


def disagreements(copies: list[Copy]) -> list[str]:
    """A line for each pair of copies that is not the same, block by block."""
    found = []
    for one, other in combinations(copies, 2):
        if blocks := differing_blocks(one, other):
            found.append(f"{one.node} and {other.node} differ in {_named(blocks)}")
    return found


def not_as_written(copy: Copy, allowed: Mapping[int, frozenset[int]]) -> list[int]:
    """Blocks of a copy that hold something else than the recorder's log allows. A block that was never
    written must be zeros."""
    zeros = frozenset({0})
    sums = memoryview(copy.sums).cast("Q")
    return [block for block, found in enumerate(sums) if found not in allowed.get(block, zeros)]


def _named(blocks: list[int]) -> str:
    first = ", ".join(str(block) for block in blocks[:_NAMED_MAX])
    more = ", …" if len(blocks) > _NAMED_MAX else ""
    return f"{len(blocks)} blocks ({first}{more})"
