"""In which order two copies' trees are compared, and what stands for the rest before all is."""

import itertools
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from services.replica.replication.tree import (
    COMPARE_BLOCKS,
    GROUPS,
    HIGHEST,
    LEAVES,
    REGIONS,
    Tree,
    nodes_over,
    span_of,
    taken_from_all,
    top_level,
)
from stoscore.units import BLOCK_BYTES, GIB, MIB, REGION_BLOCKS, TIB


def blocks(size_bytes: int) -> int:
    return size_bytes // BLOCK_BYTES


def test_where_a_comparison_begins() -> None:
    sizes = (MIB, 256 * MIB, GIB, 16 * GIB, 17 * GIB, TIB, 64 * TIB)
    assert [top_level(blocks(size), finer=True) for size in sizes] == [0, 1, REGIONS, REGIONS, 11, 11, 11]
    assert span_of(REGIONS) == REGION_BLOCKS
    assert [nodes_over(level, 0, blocks(TIB))[1] for level in (HIGHEST, REGIONS)] == [1024, 262_144]


def test_each_level_is_made_of_whole_nodes_of_the_one_below() -> None:
    for finer, size in ((True, TIB), (False, TIB), (True, GIB), (True, MIB)):
        tree = Tree(blocks(size), finer=finer)
        levels = [*tree.levels(), 0]
        assert levels[0] == top_level(blocks(size), finer=finer)
        assert all(span_of(level) % span_of(below) == 0 for level, below in itertools.pairwise(levels))


def test_a_region_is_through_with_all_of_its_levels_while_its_checksums_are_at_hand() -> None:
    """As soon as there is a whole comparison of something lower, that goes first; the roots cost nothing."""
    tree = Tree(blocks(100 * GIB), finer=True)
    assert tree.begin() == HIGHEST
    asked = []
    while tree:
        level = tree.next_level()
        nodes = tree.take(level, spread=False)
        asked.append(level)
        assert sum(count for _, count in nodes) <= COMPARE_BLOCKS
        for first, count in nodes:
            assert (tree.differs(level, (first, count)) is None) == (level != GROUPS)
    whole = [level for level in asked if level in (HIGHEST, REGIONS)]
    assert asked[: len(whole)] == whole
    below = asked[len(whole) :]
    assert below[:10] == [LEAVES, GROUPS, GROUPS, GROUPS, GROUPS, LEAVES, GROUPS, GROUPS, GROUPS, GROUPS]
    assert below.count(LEAVES) == 100


def test_an_older_peer_is_asked_for_the_levels_that_it_knows() -> None:
    tree = Tree(blocks(GIB), finer=False)
    assert [*tree.levels()] == [2, 1]
    tree.begin()
    assert tree.differs(2, (0, 1)) is None
    assert tree.differs(1, (5, 2)) == (1280, 512)


def test_what_differs_at_the_end_is_as_short_as_the_volume() -> None:
    tree = Tree(10 * REGION_BLOCKS * 1024 + 5, finer=True)
    assert tree.begin() == HIGHEST
    tree.clear()
    assert not tree
    assert tree.differs(HIGHEST, (40, 1)) is None
    assert tree.take(REGIONS, spread=False) == ((10240, 1),)
    assert tree.differs(REGIONS, (10240, 1)) is None
    assert tree.take(LEAVES, spread=False) == ((40960, 1),)
    assert tree.differs(LEAVES, (40960, 1)) is None
    assert tree.take(GROUPS, spread=False) == ((655360, 1),)
    assert tree.differs(GROUPS, (655360, 1)) == (10485760, 5)


@given(
    gaps=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 200)), min_size=1, max_size=40),
    most=st.integers(1, 500),
    piece=st.sampled_from((1, 4, 16)),
)
def test_what_is_taken_from_all_over_and_what_stays_are_all_there_was(
    gaps: list[tuple[int, int]], most: int, piece: int
) -> None:
    ranges, at = [], 0
    for gap, count in gaps:
        ranges.append((at + gap, count))
        at += gap + count
    queue = deque(ranges)
    found = taken_from_all(queue, most, piece)
    everything = sorted(node for first, count in ranges for node in range(first, first + count))
    assert sorted(node for first, count in (*found, *queue) for node in range(first, first + count)) == everything
    assert 0 < sum(count for _, count in found) <= most
    assert all(count > 0 for _, count in (*found, *queue))


def test_a_sample_is_of_the_whole_volume() -> None:
    queue = deque([(0, 100_000)])
    found = taken_from_all(queue, 1024, 4)
    assert len(found) == 256 and all(count == 4 and first % 4 == 0 for first, count in found)
    assert found[0][0] < 1000 and found[-1][0] > 99_000
