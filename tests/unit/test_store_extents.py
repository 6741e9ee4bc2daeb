"""Where a store says that data are, against its content."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from services.replica.store import EXTENTS_MAX, FileStore, Format, block_sums
from services.replica.store.extents import ALIKE_BLOCKS_MAX, walk
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = 3 * REGION_BLOCKS + 100


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore.create(tmp_path / "v", Format("c", "ab" * 16, "v", "0" * 15 + "1", "data", SIZE), "b")


def write(store: FileStore, block: int, count: int) -> None:
    data = b"d" * (count * BLOCK_BYTES)
    store.mark({at // REGION_BLOCKS for at in range(block, block + count)})
    store.write(block, block_sums(data), data)


def test_an_empty_store_is_one_hole(store: FileStore) -> None:
    assert store.extents(0, SIZE) == [(SIZE, False)]
    assert store.extents(SIZE - 1, 1) == [(1, False)]
    with pytest.raises(ValueError, match="blocks"):
        store.extents(1, SIZE)


def test_extents_go_on_over_the_bounds_of_regions(store: FileStore) -> None:
    write(store, 10, 5)
    write(store, REGION_BLOCKS - 3, 7)
    assert store.extents(0, SIZE) == [
        (10, False),
        (5, True),
        (REGION_BLOCKS - 18, False),
        (7, True),
        (SIZE - REGION_BLOCKS - 4, False),
    ]
    assert store.extents(12, 2) == [(2, True)]
    store.zero(REGION_BLOCKS, 1)
    assert store.extents(REGION_BLOCKS - 1, 3) == [(1, True), (1, False), (1, True)]


def test_extents_say_what_a_read_says(store: FileStore) -> None:
    rng = random.Random(5)
    for _ in range(40):
        write(store, block := rng.randrange(SIZE - 20), rng.randrange(1, 20))
        store.zero(block, 2)
    first, count = 7, SIZE - 11
    found = store.extents(first, count)
    at = first
    for length, is_data in found:
        sums, _ = store.read(at, length)
        assert all(any(sums[8 * index : 8 * index + 8]) == is_data for index in range(length))
        at += length
    assert at == first + count
    assert all(one[1] != after[1] for one, after in pairwise(found))


def test_zeros_of_a_suspect_region_are_not_believed(store: FileStore) -> None:
    store._layer.sums.suspect = frozenset({1})
    assert store.extents(0, SIZE) == [(REGION_BLOCKS, False), (REGION_BLOCKS, True), (SIZE - 2 * REGION_BLOCKS, False)]


def test_the_walk_is_bounded() -> None:
    looked: list[int] = []

    def alternating(at: int, count: int) -> bytes:
        looked.append(count)
        return (bytes(8) + b"x" * 8) * (count // 2) + bytes(8) * (count % 2)

    found = walk(5, 1 << 20, alternating)
    assert len(found) <= EXTENTS_MAX
    assert sum(count for count, _ in found) == sum(looked) > EXTENTS_MAX // 2
    assert walk(0, 1 << 30, lambda at, count: bytes(8 * count)) == [(ALIKE_BLOCKS_MAX, False)]
