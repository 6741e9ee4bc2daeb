"""Blocks in and out: runs of zeros become holes, neighbours stay untouched, the tree follows the content."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica.store import GROUP_BLOCKS, GROUPS, REGIONS, FileStore, Format, block_sums, check, node, nodes
from services.replica.store.disk import data_ranges
from services.replica.store.sum_map import SumMap
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = 3 * REGION_BLOCKS + 300


def make(directory: Path, size_blocks: int = SIZE) -> FileStore:
    return FileStore.create(directory, Format("c", "a" * 32, "v", "b" * 16, "data", size_blocks), "boot")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    made = make(tmp_path / "replica")
    made.mark(range(4))
    yield made
    made.close(clean=False)


def allocated(store: FileStore) -> list[tuple[int, int]]:
    with (store.directory / "layers/0001/data").open("rb") as file:
        ranges = data_ranges(file.fileno(), 0, SIZE * BLOCK_BYTES)
        return [(low // BLOCK_BYTES, high // BLOCK_BYTES) for low, high in ranges]


def test_zeros_in_a_write_become_holes(store: FileStore) -> None:
    full = os.urandom(6 * BLOCK_BYTES)
    store.write(10, block_sums(full), full)
    mixed = bytes(BLOCK_BYTES) + full[:BLOCK_BYTES] + bytes(2 * BLOCK_BYTES) + full[: 2 * BLOCK_BYTES]
    store.write(10, block_sums(mixed), memoryview(mixed))
    assert store.read(10, 6) == (block_sums(mixed), mixed)
    store.sync()
    assert allocated(store) == [(11, 12), (14, 16)]


def test_zero_gives_space_back_and_touches_no_neighbour(store: FileStore) -> None:
    data = os.urandom(64 * BLOCK_BYTES)
    first = REGION_BLOCKS - 32
    store.write(first, block_sums(data), data)
    store.sync()
    before = store.allocated_bytes()
    store.zero(first + 1, 62)
    store.sync()
    assert store.allocated_bytes() <= before - 62 * BLOCK_BYTES
    want = data[:BLOCK_BYTES] + bytes(62 * BLOCK_BYTES) + data[-BLOCK_BYTES:]
    assert store.read(first, 64)[1] == want


def test_trimming_the_whole_volume_when_nothing_is_there_writes_nothing(store: FileStore) -> None:
    store.sync()
    before = store.allocated_bytes()
    store.zero(0, SIZE)
    store.sync()
    assert store.allocated_bytes() == before


def test_a_write_over_several_regions(store: FileStore) -> None:
    data = os.urandom((2 * REGION_BLOCKS + 10) * BLOCK_BYTES)
    first = REGION_BLOCKS - 5
    store.read(first, 20)
    store.write(first, block_sums(data), data)
    assert store.read(first, 2 * REGION_BLOCKS + 10) == (block_sums(data), data)
    store.sync()
    store.unmark(range(4))
    store.close()
    assert check(store.directory).whole


@pytest.mark.parametrize(("block", "count"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, 0)])
def test_ranges_outside_the_volume_are_refused(store: FileStore, block: int, count: int) -> None:
    data = bytes(count * BLOCK_BYTES)
    with pytest.raises(ValueError, match="of a volume of"):
        store.read(block, count)
    with pytest.raises(ValueError, match="of a volume of"):
        store.zero(block, count)
    with pytest.raises(ValueError, match="of a volume of"):
        store.write(block, bytes(count * 8), data)
    with pytest.raises(ValueError, match="of a volume of"):
        store.mark([4])


def test_sums_must_fit_the_data(store: FileStore) -> None:
    with pytest.raises(ValueError, match="2 sums"):
        store.write(0, bytes(16), bytes(BLOCK_BYTES))


def test_the_tree_is_what_its_definition_says(store: FileStore) -> None:
    for at in (0, 255, 256, 1023, 1024, 2300, SIZE - 1):
        data = os.urandom(BLOCK_BYTES)
        store.write(at, block_sums(data), data)
    leaves = store.digests(0, 0, SIZE)
    assert leaves == store.read_sums(0, SIZE)
    ones = nodes(leaves)
    count = len(ones) // 8
    assert count == -(-SIZE // 256)
    assert store.digests(1, 0, count) == ones
    for index in range(count):
        assert store.digests(1, index, 1) == ones[index * 8 : index * 8 + 8]
    assert store.digests(1, 3, 7) == ones[24:80]
    assert store.digests(2, 0, 1) == node(ones).to_bytes(8, "little")
    assert store.digests(3, 0, 1) == node(store.digests(2, 0, 1)).to_bytes(8, "little")
    with pytest.raises(ValueError, match="of level 1"):
        store.digests(1, count, 1)
    groups = nodes(leaves, GROUP_BLOCKS)
    assert store.digests(GROUPS, 0, len(groups) // 8) == groups
    assert groups[:8] == node(leaves[: GROUP_BLOCKS * 8]).to_bytes(8, "little") != groups[8:16] == bytes(8)
    assert store.digests_of(GROUPS, [(0, 1), (15, 2), (143, 3)]) == groups[:8] + groups[120:136] + groups[1144:1168]
    with pytest.raises(ValueError, match="of level 9"):
        store.digests(GROUPS, len(groups) // 8, 1)


def test_regions_are_compared_by_their_roots_as_far_as_these_say_something(store: FileStore) -> None:
    def expected() -> bytes:
        return b"".join(
            nodes(store.read_sums(at, REGION_BLOCKS), REGION_BLOCKS) for at in range(0, whole, REGION_BLOCKS)
        )

    whole, past = SIZE // REGION_BLOCKS * REGION_BLOCKS, SIZE - SIZE % REGION_BLOCKS
    for at in (0, 1024, SIZE - 1):
        data = os.urandom(BLOCK_BYTES)
        store.write(at, block_sums(data), data)
    last = node(store.read_sums(past, SIZE - past) + bytes((REGION_BLOCKS - SIZE + past) * 8)).to_bytes(8, "little")
    assert store.digests(REGIONS, 0, 4) == expected() + last, "they are marked: by their sums"
    store.sync()
    store.unmark([0, 1, 3])
    assert store.digests(REGIONS, 0, 4) == expected() + last
    assert store.digests(REGIONS, 2, 1) == bytes(8) != store.digests(REGIONS, 1, 1)
    assert store.digests_of(REGIONS, [(3, 1), (0, 2)]) == last + expected()[:16]
    assert store.digests(REGIONS + 1, 0, 1) == nodes(expected() + last)
    store.mark([1])
    data = os.urandom(BLOCK_BYTES)
    store.write(1500, block_sums(data), data)
    assert store.digests(REGIONS, 0, 4) == expected() + last, "its root is from before"
    with pytest.raises(ValueError, match="of level 10"):
        store.digests(REGIONS, 4, 1)
    with pytest.raises(ValueError, match="of level 11"):
        store.digests(REGIONS + 1, 1, 1)


def test_while_roots_are_written_those_of_before_say_nothing(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync clears the note that a region was written before it hashes its sums: until then its mark is what tells."""
    seen = []
    written = SumMap._write_root

    def write_root(sums: SumMap, region: int, root: int) -> None:
        seen.append(store.digests(REGIONS, region, 1) == root.to_bytes(8, "little"))
        written(sums, region, root)

    monkeypatch.setattr(SumMap, "_write_root", write_root)
    for at in (5, 1500):
        data = os.urandom(BLOCK_BYTES)
        store.write(at, block_sums(data), data)
    store.sync()
    assert seen == [True, True]


def test_an_unmarked_region_is_compared_without_reading_its_sums(store: FileStore) -> None:
    """Of a terabyte these would be two gigabytes."""
    data = os.urandom(BLOCK_BYTES)
    store.write(1024, block_sums(data), data)
    store.sync()
    store.unmark(range(4))
    before = store.digests(REGIONS, 0, 4)
    store._layer.sums._cache.clear()
    with (store.directory / "layers/0001/sums").open("r+b") as file:
        file.write(b"\xff" * (SIZE // REGION_BLOCKS) * REGION_BLOCKS * 8)
    assert store.digests(REGIONS, 0, 4) == before


def test_the_tree_over_more_than_256_nodes(tmp_path: Path) -> None:
    store = make(tmp_path / "large", size_blocks=256 * 256 * 2 + 700)
    for at in (5, 256 * 256 + 9, 256 * 256 * 2 + 699):
        data = os.urandom(BLOCK_BYTES)
        store.mark([at // REGION_BLOCKS])
        store.write(at, block_sums(data), data)
    ones = store.digests(1, 0, 515)
    assert store.digests(2, 0, 3) == nodes(ones)
    assert store.digests(2, 1, 2) == nodes(ones)[8:]
    assert store.digests(3, 0, 1) == nodes(nodes(ones))
    store.close()


def test_digests_are_equal_exactly_when_the_content_is(tmp_path: Path, store: FileStore) -> None:
    other = make(tmp_path / "other")
    other.mark(range(4))
    data = os.urandom(8 * BLOCK_BYTES)
    store.write(100, block_sums(data), data)
    other.write(104, block_sums(data[4 * BLOCK_BYTES :]), data[4 * BLOCK_BYTES :])
    assert store.digests(2, 0, 1) != other.digests(2, 0, 1)
    other.write(100, block_sums(data[: 4 * BLOCK_BYTES]), data[: 4 * BLOCK_BYTES])
    zeros = bytes(50 * BLOCK_BYTES)
    other.write(2000, block_sums(zeros), zeros)
    store.write(3000, block_sums(data), data)
    store.zero(3000, 8)
    assert store.digests(1, 0, 14) == other.digests(1, 0, 14)
    assert store.digests(2, 0, 1) == other.digests(2, 0, 1)
    other.close()


def test_syncs_and_marks_in_a_worker_while_writes_go_on(store: FileStore) -> None:
    store.sync()
    store.unmark(range(4))
    stop = threading.Event()
    failures: list[BaseException] = []
    store.mark(range(4))

    def work() -> None:
        try:
            while not stop.is_set():
                store.sync()
                store.save_state(b"state")
        except BaseException as error:
            failures.append(error)

    expected: dict[int, bytes] = {}
    worker = threading.Thread(target=work)
    worker.start()
    try:
        for seq in range(1, 3000):
            at = seq * 37 % (SIZE - 2)
            data = seq.to_bytes(8, "little") * 512 * 2
            store.tail_append(seq, at, 2)
            store.write(at, block_sums(data), data)
            expected |= {at: data[:BLOCK_BYTES], at + 1: data[BLOCK_BYTES:]}
            store.tail_commit(seq)
    finally:
        stop.set()
        worker.join()
    assert not failures
    store.sync()
    store.unmark(range(4))
    assert all(store.read(at, 1)[1] == data for at, data in expected.items())
    store.close()
    report = check(store.directory)
    assert (report.problems, report.notes, report.blocks) == ([], [], len(expected))
