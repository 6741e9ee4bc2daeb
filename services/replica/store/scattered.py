"""Ranges from all over a volume, region by region: what is done once a range costs more than the block itself.

A copy that catches up is sent what it missed as it lies, often one block here and one there. Stored one by one, each
costs a write of 8 bytes of checksum beside its 4 KiB, a note in the tail and two strokes of the pen. Of a region that
is one write of its row of checksums, one note, two strokes: the hull of what is written there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stoscore.units import REGION_BLOCKS

Range = tuple[int, int]
"""(block, count)"""


@dataclass(slots=True)
class Part:
    """Neighbouring ranges of a list, all in one region."""

    region: int
    first: int
    end: int
    """Their hull."""
    blocks: int = 0
    ranges: list[Range] = field(default_factory=list)

    def add(self, block: int, count: int) -> None:
        self.ranges.append((block, count))
        self.blocks += count
        if block < self.first:
            self.first = block
        if block + count > self.end:
            self.end = block + count

    @property
    def hull(self) -> Range:
        return self.first, self.end - self.first


def by_region(ranges: Sequence[Range]) -> list[Part]:
    """In the order of `ranges`; one that crosses regions is cut."""
    parts: list[Part] = []
    part = Part(-1, 0, 0)
    low = high = 0
    for block, count in ranges:
        end = block + count
        if block < low or end > high:
            for piece in _cut(block, count):
                if piece[0] < low or piece[0] >= high:
                    part = Part(piece[0] // REGION_BLOCKS, piece[0], piece[0])
                    parts.append(part)
                    low, high = part.region * REGION_BLOCKS, (part.region + 1) * REGION_BLOCKS
                part.add(*piece)
        else:
            part.add(block, count)
    return parts


def _cut(block: int, count: int) -> list[Range]:
    """At the regions' ends."""
    pieces = []
    while count:
        step = min(count, REGION_BLOCKS - block % REGION_BLOCKS)
        pieces.append((block, step))
        block, count = block + step, count - step
    return pieces
