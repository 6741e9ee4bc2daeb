"""Rot: flipped bits in data, checksums and roots are found, and repaired where the rest proves what was there."""

import os
import struct
from pathlib import Path

import pytest

from services.replica.store import CorruptBlocks, FileStore, Format, Unproved, block_sums, check
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = 2 * REGION_BLOCKS + 50
LAYER = "layers/0001"


class Replica:
    """A flushed, unmarked, closed replica; `rot` changes its files as a disk would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        store = FileStore.create(directory, Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), "boot")
        self.content = {at: os.urandom(BLOCK_BYTES) for at in (3, 4, 5, REGION_BLOCKS + 7, SIZE - 1)}
        store.mark(range(3))
        for at, data in self.content.items():
            store.write(at, block_sums(data), data)
        store.close()

    def open(self) -> FileStore:
        return FileStore.open(self.directory, cluster="c", boot_id="boot")

    def rot(self, name: str, offset: int, data: bytes | None = None) -> None:
        with (self.directory / LAYER / name).open("r+b") as file:
            file.seek(offset)
            found = file.read(len(data) if data else 1)
            file.seek(offset)
            file.write(data if data else bytes([found[0] ^ 0x10]))

    def read(self, name: str, offset: int, size: int) -> bytes:
        return (self.directory / LAYER / name).read_bytes()[offset : offset + size]


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path / "replica")


def test_a_flip_in_the_data_is_never_returned(replica: Replica) -> None:
    replica.rot("data", 4 * BLOCK_BYTES + 1234)
    store = replica.open()
    with pytest.raises(CorruptBlocks) as caught:
        store.read(0, 10)
    assert caught.value.blocks == (4,)
    assert store.read(3, 1)[1] == replica.content[3]
    store.mark([0])
    store.write(4, block_sums(replica.content[4]), replica.content[4])
    assert store.read(4, 1)[1] == replica.content[4]
    store.close()
    assert check(replica.directory).whole


def test_reads_that_lie_apart_find_a_flip_beside_blocks_that_are_absent(replica: Replica) -> None:
    places = [(3, 1), (0, 3), (4, 2), (REGION_BLOCKS + 7, 1), (100, 1)]
    at_places = [at for first, count in places for at in range(first, first + count)]
    store = replica.open()
    data = b"".join(replica.content.get(at, bytes(BLOCK_BYTES)) for at in at_places)
    assert store.read_scattered(places) == (block_sums(data), data)
    store.close()
    replica.rot("data", 4 * BLOCK_BYTES + 1234)
    store = replica.open()
    with pytest.raises(CorruptBlocks) as caught:
        store.read_scattered(places)
    assert caught.value.blocks == (4,)
    store.close()


def test_single_blocks_that_lie_apart_find_a_flip_too(replica: Replica) -> None:
    at_places = [4, *sorted(replica.content.keys() - {4}, reverse=True)[:8]]
    places = [(at, 1) for at in at_places]
    store = replica.open()
    data = b"".join(replica.content[at] for at in at_places)
    for _ in range(2):  # without and with the sums in memory
        assert store.read_scattered(places) == (block_sums(data), data)
    store.close()
    replica.rot("data", 4 * BLOCK_BYTES + 1234)
    store = replica.open()
    for _ in range(2):
        with pytest.raises(CorruptBlocks) as caught:
            store.read_scattered(places)
        assert caught.value.blocks == (4,)
    store.close()


def test_reads_that_lie_apart_do_not_believe_a_suspect_regions_zeros(replica: Replica) -> None:
    store = replica.open()
    store._layer.sums.write(4, bytes(8))
    assert store.read_scattered([(4, 1), (3, 1)])[1] == bytes(BLOCK_BYTES) + replica.content[3], "absent"
    store._layer.sums.suspect = frozenset({0})
    with pytest.raises(CorruptBlocks) as caught:
        store.read_scattered([(4, 1), (3, 1)])
    assert caught.value.blocks == (4,)


def test_a_flip_in_the_sums_is_proved_by_the_root_and_repaired(replica: Replica) -> None:
    before = replica.read("sums", 0, 100)
    replica.rot("sums", 4 * 8 + 2)
    assert check(replica.directory).bad_roots == [0]
    store = replica.open()
    assert store.read(3, 3)[1] == b"".join(replica.content[at] for at in (3, 4, 5))
    store.close()
    assert replica.read("sums", 0, 100) == before
    assert check(replica.directory).whole


def test_a_lost_entry_does_not_turn_a_block_into_zeros(replica: Replica) -> None:
    replica.rot("sums", (REGION_BLOCKS + 7) * 8, bytes(8))
    store = replica.open()
    assert store.read(REGION_BLOCKS + 7, 1)[1] == replica.content[REGION_BLOCKS + 7]
    store.close()


SNAPSHOT_ROTS = (
    ("sums", 4 * 8 + 2, None),
    ("sums", (REGION_BLOCKS + 7) * 8, bytes(8)),
    ("sums", REGION_BLOCKS * 8, bytes(REGION_BLOCKS * 8)),
    ("roots", 8 + 3, None),
)


@pytest.mark.parametrize(("name", "offset", "found"), SNAPSHOT_ROTS)
def test_the_root_of_a_snapshot_is_that_of_proved_checksums(
    replica: Replica, name: str, offset: int, found: bytes | None
) -> None:
    """Rotten in a region that nobody looked at for long: the primary would judge the other copies by it."""
    store = replica.open()
    store.seal("before")
    want = store.root("before", SIZE)
    store.close()
    replica.rot(name, offset, found)
    store = replica.open()
    assert want
    assert store.root("before", SIZE) == want
    store.seal("after")
    assert store.root("after", SIZE) == want
    store.close()


def test_a_snapshot_whose_checksums_nothing_proves_has_no_root(replica: Replica) -> None:
    replica.rot("data", 4 * BLOCK_BYTES)
    replica.rot("sums", 4 * 8 + 2)
    store = replica.open()
    store.seal("s")
    with pytest.raises(Unproved, match=r"region 0 in .*layers/0001/sums"):
        store.root("s", SIZE)
    store.sync()
    assert store.read(5, 1)[1] == replica.content[5], "nothing else happened"
    store.close()


def test_a_lost_entry_is_found_before_a_mark_makes_its_root_worthless(replica: Replica) -> None:
    replica.rot("sums", 4 * 8, bytes(8))
    store = replica.open()
    store.mark([0])
    store.write(9, block_sums(replica.content[3]), replica.content[3])
    store.sync()
    assert store.read(4, 1)[1] == replica.content[4]
    store.close()


def test_a_flip_in_a_root_is_repaired(replica: Replica) -> None:
    replica.rot("roots", 8)
    assert check(replica.directory).bad_roots == [1]
    store = replica.open()
    store.read(REGION_BLOCKS, 10)
    store.close()
    assert check(replica.directory).whole


@pytest.fixture
def twice_rotten(replica: Replica) -> Replica:
    """A lost entry and a rotten block in one region: its root proves neither alone."""
    replica.rot("sums", 4 * 8, bytes(8))
    replica.rot("data", 5 * BLOCK_BYTES)
    store = replica.open()
    with pytest.raises(CorruptBlocks) as caught:
        store.read(0, 10)
    assert caught.value.blocks == (4, 5)
    with pytest.raises(CorruptBlocks):
        store.read(4, 1)
    store.close()
    return replica


def rewrite(replica: Replica, at: int, data: bytes) -> None:
    store = replica.open()
    store.mark([0])
    store.write(at, block_sums(data), data)
    store.sync()
    store.unmark([0])
    store.close(clean=False)


def test_healing_the_data_lets_the_root_prove_the_rest(twice_rotten: Replica) -> None:
    rewrite(twice_rotten, 5, twice_rotten.content[5])
    store = twice_rotten.open()
    assert store.read(4, 2)[1] == twice_rotten.content[4] + twice_rotten.content[5]
    store.close()
    assert check(twice_rotten.directory).whole


def test_a_later_write_does_not_bless_what_is_still_rotten(twice_rotten: Replica) -> None:
    rewrite(twice_rotten, 5, b"new!" * 1024)
    store = twice_rotten.open()
    with pytest.raises(CorruptBlocks) as caught:
        store.read(0, 10)
    assert caught.value.blocks == (4,)
    store.close()
    assert not check(twice_rotten.directory).whole
    rewrite(twice_rotten, 4, twice_rotten.content[4])
    assert check(twice_rotten.directory).whole


def test_a_rotten_last_short_region_is_repaired_too(replica: Replica) -> None:
    replica.rot("sums", (SIZE - 1) * 8)
    store = replica.open()
    assert store.read_sums(SIZE - 1, 1) == block_sums(replica.content[SIZE - 1])
    store.close()


def test_the_tree_does_not_hash_rotten_sums(replica: Replica) -> None:
    store = replica.open()
    want = store.digests(1, 0, 9)
    store.close()
    replica.rot("sums", 4 * 8)
    store = replica.open()
    assert store.digests(1, 0, 9) == want
    store.close()


def test_check_tells_unfinished_from_corrupt(replica: Replica) -> None:
    store = replica.open()
    store.mark([0])
    store.close(clean=False)
    replica.rot("data", 4 * BLOCK_BYTES)
    report = check(replica.directory)
    assert report.whole
    assert (report.unfinished_blocks, report.marked) == (1, [0])
    replica.rot("data", (REGION_BLOCKS + 7) * BLOCK_BYTES)
    report = check(replica.directory)
    assert (report.whole, report.bad_blocks) == (False, [REGION_BLOCKS + 7])


def test_check_finds_a_block_that_is_a_hole_and_should_not_be(replica: Replica) -> None:
    replica.rot("sums", 9 * 8, struct.pack("<Q", 77))
    assert check(replica.directory).bad_blocks == [9]
