"""What differs between two rows of digests, and ranges by region: both against their plain descriptions."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.replica.replication.blockmap import BlockMap
from services.replica.resyncing import different
from services.replica.store import by_region
from stoscore.units import REGION_BLOCKS

RANGES = st.lists(st.tuples(st.integers(0, 5 * REGION_BLOCKS), st.integers(1, 2 * REGION_BLOCKS)), max_size=8)


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    gaps=st.lists(st.integers(1, 3), min_size=8, max_size=8),
    changed=st.sets(st.integers(0, 47)),
)
def test_the_runs_name_exactly_the_nodes_that_differ(counts: list[int], gaps: list[int], changed: set[int]) -> None:
    ranges, nodes, first = [], [], 0
    for count, gap in zip(counts, gaps, strict=False):
        ranges.append((first, count))
        nodes += range(first, first + count)
        first += count + gap
    ours = [7] * len(nodes)
    theirs = [8 if at in changed else 7 for at in range(len(nodes))]
    runs = different(ranges, struct.pack(f"<{len(ours)}Q", *ours), struct.pack(f"<{len(ours)}Q", *theirs))
    assert [at for block, count in runs for at in range(block, block + count)] == [
        node for at, node in enumerate(nodes) if at in changed
    ]
    assert runs == sorted(BlockMap(runs).ranges()), "neighbours are one run"


@given(RANGES)
def test_parts_lie_in_one_region_each_and_hold_the_ranges_in_order(ranges: list[tuple[int, int]]) -> None:
    parts = by_region(ranges)
    blocks = [at for block, count in ranges for at in range(block, block + count)]
    assert [at for part in parts for block, count in part.ranges for at in range(block, block + count)] == blocks
    for part in parts:
        first, count = part.hull
        assert part.region == first // REGION_BLOCKS == (first + count - 1) // REGION_BLOCKS
        assert part.blocks == sum(count for _, count in part.ranges)
        assert first == min(block for block, _ in part.ranges)
        assert first + count == max(sum(piece) for piece in part.ranges)
    assert all(one.region != other.region for one, other in pairwise(parts))
