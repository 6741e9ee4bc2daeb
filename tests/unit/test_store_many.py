"""Writes that came together: what is written is under the pen, and a disk that refuses one leaves no wrong checksum."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.replica.store import FileStore, Format, StoreError, block_sums
from services.replica.store.disk import FOLIO_BYTES
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS, SUM_BYTES

BLOCKS = (7, REGION_BLOCKS + 1, 3, 8, REGION_BLOCKS - 1)
RANGES = tuple([(block, 1) for block in BLOCKS])
OLD, NEW = os.urandom(len(BLOCKS) * BLOCK_BYTES), os.urandom(len(BLOCKS) * BLOCK_BYTES)
Put = Callable[[int, bytes | memoryview, int], int]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    made = FileStore.create(
        tmp_path / "replica", Format("c", "a" * 32, "v", "b" * 16, "data", 2 * REGION_BLOCKS), "boot"
    )
    made.mark(range(2))
    made.write_many(1, RANGES, block_sums(OLD), OLD)
    yield made
    made.close(clean=False)


def content(store: FileStore) -> list[bytes]:
    return [store.read(block, 1)[1] for block in BLOCKS]


def cut(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


@pytest.mark.parametrize("cached", [True, False])
def test_they_are_stored(store: FileStore, cached: bool) -> None:
    if cached:
        assert content(store) == cut(OLD)
    store.write_many(2, RANGES, memoryview(block_sums(NEW)), memoryview(NEW))
    assert content(store) == cut(NEW)
    assert store.tail_entries() == sorted((seq, block, 1) for seq in (1, 2) for block in BLOCKS)
    assert store._tail.pen_range() == (RANGES[-1][0], 0)


def test_what_is_being_written_is_named_before(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put, seen = os.pwrite, list[tuple[tuple[int, int], int]]()

    def recorded(fd: int, data: bytes | memoryview, offset: int) -> int:
        assert store.tail_state()[0] == 2, "the tail names all of them before"
        seen.append((store._tail.pen_range(), offset // (BLOCK_BYTES if len(data) == BLOCK_BYTES else SUM_BYTES)))
        return put(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", recorded)
    store.write_many(2, RANGES, block_sums(NEW), NEW)
    assert seen == [((block, 1), block) for block in BLOCKS for _ in ("data", "sums")]


@pytest.mark.parametrize("refused", range(2 * len(BLOCKS)))
def test_a_disk_that_refuses_one(store: FileStore, monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    assert content(store) == cut(OLD), "all checksums are cached"
    put, left = os.pwrite, [refused]

    def failing(fd: int, data: bytes | memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        with pytest.raises(StoreError, match="no space left"):
            store.write_many(2, RANGES, block_sums(NEW), NEW)
    assert store.unclean
    whole, torn = divmod(refused, 2)
    assert store._tail.pen_range() == (BLOCKS[whole], 1), "what is between data and checksum stays named"
    found = [b"" if torn and block == BLOCKS[whole] else store.read(block, 1)[1] for block in BLOCKS]
    want = [*cut(NEW)[:whole], *cut(OLD)[whole:]]
    assert found == [b"" if torn and at == whole else data for at, data in enumerate(want)]


def test_what_the_kernel_writes_in_parts_is_written_whole(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset: put(fd, data[: max(1, len(data) // 2)], offset))
        store.write_many(2, RANGES, block_sums(NEW), NEW)
    assert content(store) == cut(NEW)


def test_blocks_of_zeros_among_them_are_holes(store: FileStore) -> None:
    mixed = NEW[: 2 * BLOCK_BYTES] + bytes(BLOCK_BYTES) + NEW[3 * BLOCK_BYTES :]
    store.write_many(2, RANGES, block_sums(mixed), mixed)
    assert content(store) == cut(mixed)
    assert store.read_sums(BLOCKS[2], 1) == bytes(SUM_BYTES)


def test_a_write_that_was_lost_from_the_ring_is_lost_as_a_whole(store: FileStore) -> None:
    """Its number is what is compared with the commit point."""
    for seq in range(2, 4096 // len(RANGES) + 1):
        store.write_many(seq, RANGES, block_sums(NEW), NEW)
    assert store.tail_entries() is not None
    store.write_many(9999, RANGES, block_sums(NEW), NEW)
    assert store.tail_entries() is None
    store.tail_commit(1)
    entries = store.tail_entries()
    assert entries is not None and entries[0][0] == 2


@pytest.mark.parametrize("ranges", [((0, 40),), ((3, 16), (100, 1), (200, 16))])
def test_no_call_writes_more_than_a_folio_should_hold(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, ranges: tuple[tuple[int, int], ...]
) -> None:
    """Each later write of one of its blocks would pay for all of them."""
    put, sizes = os.pwrite, list[int]()

    def recorded(fd: int, data: bytes | memoryview, offset: int) -> int:
        sizes.append(len(data))
        return put(fd, data, offset)

    data = os.urandom(sum(count for _, count in ranges) * BLOCK_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", recorded)
        store.write_many(2, ranges, block_sums(data), data)
        store.write(500, block_sums(data), data)
        store.write_scattered([(600, len(data) // BLOCK_BYTES)], block_sums(data), data)
    assert max(sizes) == FOLIO_BYTES
    assert b"".join(store.read(*where)[1] for where in ranges) == data
    assert store.read(500, len(data) // BLOCK_BYTES)[1] == store.read(600, len(data) // BLOCK_BYTES)[1] == data
