"""Where a volume holds data and where it reads as zeros, told from its checksums: a sum of 0 is a block of zeros.

The walk is bounded, whatever is asked for: it runs in the event loop, and leases are bounded by the loop's pauses.
It may end before the range does; whoever asks goes on from there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import groupby

from services.replica.store.sums import ZERO_SUM, all_zero
from stoscore.units import REGION_BLOCKS, SUM_BYTES

Extent = tuple[int, bool]
"""Blocks, and whether they hold data."""

EXTENTS_MAX = 16 * REGION_BLOCKS
"""Of one answer: once it has more than one, the walk ends before it could find more."""
ALIKE_BLOCKS_MAX = 256 * REGION_BLOCKS
"""How far the walk goes while all is alike (1 GiB: some milliseconds)."""


def walk(block: int, count: int, region: Callable[[int, int], bytes | None]) -> list[Extent]:
    """The extents from `block` on, at most `count` blocks of them, neighbours never alike. `region(block, count)`:
    the sums of a range inside one region, None when it has to be taken for data."""
    found: list[Extent] = []
    walked = 0
    while walked < min(count, ALIKE_BLOCKS_MAX) and (len(found) < 2 or walked + REGION_BLOCKS <= EXTENTS_MAX):
        at = block + walked
        step = min(count - walked, REGION_BLOCKS - at % REGION_BLOCKS)
        for length, is_data in _runs(region(at, step), step):
            if found and found[-1][1] == is_data:
                found[-1] = (found[-1][0] + length, is_data)
            else:
                found.append((length, is_data))
        walked += step
    return found


def _runs(sums: bytes | None, count: int) -> list[Extent]:
    if sums is None or ZERO_SUM not in sums:
        return [(count, True)]
    if all_zero(sums):
        return [(count, False)]
    values = struct.unpack(f"<{len(sums) // SUM_BYTES}Q", sums)
    return [(len(list(run)), is_data) for is_data, run in groupby(values, bool)]
