"""What opening believes, row by row of the table at the head of recovery.py (rules S3, D3, T2)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.replica.store import CorruptBlocks, FileStore, Format, StoreError, block_sums
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = 2 * REGION_BLOCKS + 100
Opener = Callable[..., FileStore]


def block(seed: int) -> bytes:
    return seed.to_bytes(8, "little") * (BLOCK_BYTES // 8)


def put(store: FileStore, seq: int, at: int, *seeds: int) -> None:
    """A whole write as the replica does it."""
    data = b"".join(block(seed) for seed in seeds)
    store.mark({number // REGION_BLOCKS for number in (at, at + len(seeds) - 1)})
    store.tail_append(seq, at, len(seeds))
    store.write(at, block_sums(data), data)


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """The same directory again and again; what a test leaves open is closed as by a kill."""
    directory = tmp_path / "replica"
    opened: list[FileStore] = []

    def again(boot_id: str = "boot-1") -> FileStore:
        if not directory.exists():
            store = FileStore.create(directory, Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), boot_id)
        else:
            store = FileStore.open(directory, cluster="c", boot_id=boot_id)
        opened.append(store)
        return store

    yield again
    for store in opened:
        store.close(clean=False)


def test_a_new_replica_is_clean_and_empty(opener: Opener) -> None:
    store = opener()
    assert (store.restarted, store.unclean, store.marked) == (False, False, frozenset())
    assert (store.tail_entries(), store.tail_state(), store.load_state()) == ([], (0, 0), None)
    assert store.read(0, SIZE) == (bytes(SIZE * 8), bytes(SIZE * BLOCK_BYTES))


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_after_a_clean_close_everything_is_as_it_was(opener: Opener, boot: str) -> None:
    store = opener()
    put(store, 1, 5, 11, 12)
    put(store, 2, REGION_BLOCKS, 13)
    store.tail_commit(1)
    store.save_state(b"epoch 3")
    store.close()

    store = opener(boot)
    assert (store.restarted, store.unclean) == (False, False)
    assert store.marked == {1}, "only what is above the commit point is unfinished"
    assert store.tail_entries() == [(2, REGION_BLOCKS, 1)]
    assert store.tail_state() == (2, 1)
    assert store.load_state() == b"epoch 3"
    assert store.read(5, 2)[1] == block(11) + block(12)


def test_the_clean_mark_holds_for_one_opening(opener: Opener) -> None:
    store = opener()
    put(store, 1, 5, 11)
    store.close()
    opener("boot-1").close(clean=False)
    store = opener("boot-2")
    assert (store.restarted, store.unclean, set(store.marked)) == (True, True, {0})


def test_a_kill_loses_nothing_and_is_not_unclean(opener: Opener) -> None:
    store = opener()
    put(store, 1, 5, 11)
    put(store, 2, 6, 12)
    store.tail_commit(1)
    store.close(clean=False)
    store = opener()
    assert (store.restarted, store.unclean, set(store.marked)) == (True, False, {0})
    assert store.tail_entries() == [(2, 6, 1)]
    assert store.read(5, 2)[1] == block(11) + block(12)


def test_a_write_that_a_kill_cut_between_data_and_sums_is_readable(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    put(store, 1, 5, 11, 12, 13)
    store.tail_append(2, 5, 3)
    store._tail.pen(5, 3)
    with (tmp_path / "replica/layers/0001/data").open("r+b") as data:
        data.seek(6 * BLOCK_BYTES)
        data.write(block(99))
    with pytest.raises(CorruptBlocks):
        store.read(5, 3)
    store.close(clean=False)
    store = opener()
    assert not store.unclean
    assert store.read(5, 3)[1] == block(11) + block(99) + block(13)


def test_corruption_under_the_tail_is_not_adopted(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    put(store, 1, 5, 11)
    store.close(clean=False)
    with (tmp_path / "replica/layers/0001/data").open("r+b") as data:
        data.seek(5 * BLOCK_BYTES)
        data.write(b"rot")
    with pytest.raises(CorruptBlocks):
        opener().read(5, 1)


def test_lost_power_with_marks_is_unclean_and_hashes_from_the_data(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    put(store, 1, 5, 11)
    put(store, 2, REGION_BLOCKS + 5, 12)
    store.sync()
    store.unmark([1])
    store.close(clean=False)
    for at in (5, 7):
        with (tmp_path / "replica/layers/0001/data").open("r+b") as data:
            data.seek(at * BLOCK_BYTES)
            data.write(block(77))

    store = opener("boot-2")
    assert (store.restarted, store.unclean, set(store.marked)) == (True, True, {0})
    assert store.tail_entries() is None
    assert store.read(5, 3)[1] == block(77) + bytes(BLOCK_BYTES) + block(77)
    assert store.read(REGION_BLOCKS + 5, 1)[1] == block(12)


def test_unclean_stays_until_it_is_cleared(opener: Opener) -> None:
    store = opener()
    put(store, 1, 5, 11)
    store.close(clean=False)
    opener("boot-2").close(clean=False)
    opener("boot-2").close()
    store = opener("boot-3")
    assert store.unclean
    store.sync()
    store.set_clean()
    assert not store.unclean
    assert store.tail_entries() == []
    store.unmark(store.marked)
    store.close(clean=False)
    assert not opener("boot-4").unclean


def test_lost_power_without_marks_is_clean(opener: Opener) -> None:
    store = opener()
    put(store, 1, 5, 11)
    store.sync()
    store.tail_commit(1)
    store.unmark([0])
    store.close(clean=False)
    store = opener("boot-2")
    assert (store.restarted, store.unclean, store.marked) == (True, False, frozenset())
    assert store.tail_entries() == []
    assert store.tail_state() == (1, 1)
    assert store.read(5, 1)[1] == block(11)


def test_doubt_ends_when_every_region_of_before_is_unmarked(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    put(store, 1, 5, 11)
    put(store, 2, REGION_BLOCKS, 12)
    store.close(clean=False)
    with (tmp_path / "replica/tail").open("r+b") as tail:
        tail.seek(4096 + 40)
        tail.write(b"\xff" * 8)
    store = opener()
    assert not store.unclean, "the page cache is whole: nothing acknowledged was lost"
    assert store.tail_entries() is None
    put(store, 3, 2 * REGION_BLOCKS, 13)
    store.sync()
    store.unmark([0])
    assert store.tail_entries() is None
    store.unmark([1])
    assert store.tail_entries() == [(3, 2 * REGION_BLOCKS, 1)]


def test_a_killed_recovery_starts_again(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    put(store, 1, 5, 11)
    store.close(clean=False)
    opener("boot-2").close(clean=False)
    store = opener("boot-2")
    assert store.unclean
    assert store.tail_entries() is None


def test_a_failed_sync_is_final_until_the_store_is_opened_again(opener: Opener) -> None:
    store = opener()
    put(store, 1, 5, 11)
    fd = store._layer.files.data
    kept = os.dup(fd)
    reader, writer = os.pipe()
    os.dup2(writer, fd)  # A descriptor that the kernel refuses to sync.
    with pytest.raises(StoreError, match=r"could not sync .*/data"):
        store.sync()
    os.dup2(kept, fd)
    for descriptor in (kept, reader, writer):
        os.close(descriptor)
    assert store.unclean
    with pytest.raises(StoreError, match="opened again"):
        store.sync()
    with pytest.raises(StoreError, match="opened again"):
        store.set_clean()
    store.close()
    store = opener()
    assert (store.unclean, store.restarted) == (True, True)
    store.sync()
    store.set_clean()
    store.close()
    assert not opener().unclean


def test_set_unclean_is_durable(opener: Opener) -> None:
    store = opener()
    store.set_unclean()
    store.close()
    assert opener().unclean
