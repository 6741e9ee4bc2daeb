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

    @property
    def hull(self) -> Range:
        return self.first, self.end - self.first


def by_region(ranges: Sequence[Range]) -> list[Part]:
    """In the order of `ranges`; one that crosses regions is cut."""
    parts: list[Part] = []
    part = Part(-1, 0, 0)
    for block, count in ranges:
        while count:
            region, offset = divmod(block, REGION_BLOCKS)
            step = min(count, REGION_BLOCKS - offset)
            if region != part.region:
                part = Part(region, block, block)
                parts.append(part)
            part.ranges.append((block, step))
            part.blocks += step
            if block < part.first:
                part.first = block
            if block + step > part.end:
                part.end = block + step
            block, count = block + step, count - step
    return parts
