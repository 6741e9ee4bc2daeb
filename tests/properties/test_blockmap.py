"""BlockMap against a plain set of block numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.replica.replication.blockmap import BlockMap, regions_of
from stoscore.units import REGION_BLOCKS

RANGES = st.tuples(st.integers(0, 4 * REGION_BLOCKS), st.integers(1, 2 * REGION_BLOCKS + 3))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "discard", "update"]), RANGES), max_size=12)


def blocks(ranges: list[tuple[int, int]]) -> set[int]:
    return {block for start, count in ranges for block in range(start, start + count)}


@given(STEPS)
def test_like_a_set(steps: list[tuple[str, tuple[int, int]]]) -> None:
    real, model = BlockMap(), set[int]()
    for name, (start, count) in steps:
        touched = set(range(start, start + count))
        if name == "add":
            real.add(start, count)
            model |= touched
        elif name == "update":
            real.update(BlockMap([(start, count)]))
            model |= touched
        else:
            real.discard(start, count)
            model -= touched
    ranges = real.ranges()
    assert blocks(ranges) == model
    assert sum(count for _, count in ranges) == len(model) == len(real), "no block twice"
    assert ranges == sorted(ranges)
    assert bool(real) == bool(model)
    assert all((block in real) == (block in model) for block in (0, 1, REGION_BLOCKS - 1, REGION_BLOCKS, 5000))
    assert BlockMap(ranges) == real == real.copy()


@given(st.lists(RANGES, max_size=6), st.integers(1, 3000), st.booleans())
def test_take_empties_it_in_bounded_pieces(ranges: list[tuple[int, int]], count_max: int, spread: bool) -> None:
    real, left = BlockMap(ranges), blocks(ranges)
    while real:
        taken = real.take(count_max, spread=spread)
        piece = blocks(taken)
        assert piece and piece <= left
        assert sum(count for _, count in taken) == len(piece) < count_max + REGION_BLOCKS
        left -= piece
    assert not left


@given(RANGES)
def test_regions_of(piece: tuple[int, int]) -> None:
    start, count = piece
    assert set(regions_of(start, count)) == {block // REGION_BLOCKS for block in range(start, start + count)}


def test_a_copy_is_its_own() -> None:
    first = BlockMap([(0, 3)])
    second = first.copy()
    second.add(7, 1)
    assert 7 not in first
    assert first != second
