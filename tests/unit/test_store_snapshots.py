"""Layers that are sealed, dropped and folded: what the volume and its snapshots hold, and what is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica.store import CorruptBlocks, FileStore, Format, FormatError, StoreError, block_sums, check, digest
from services.replica.store.stack import FILE, FILE_BYTES, LAYERS_MAX, Entry, StackFile
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = 2 * REGION_BLOCKS + 50
IDENTITY = ("c", "a" * 32, "v", "b" * 16, "data")
ZERO = bytes(BLOCK_BYTES)
X, Y, Z = (letter * BLOCK_BYTES for letter in (b"x", b"y", b"z"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    store = FileStore.create(tmp_path / "replica", Format(*IDENTITY, SIZE), "boot")
    yield store
    store.close(clean=False)


def again(store: FileStore, boot: str = "boot") -> FileStore:
    return FileStore.open(store.directory, cluster="c", boot_id=boot)


def write(store: FileStore, block: int, *contents: bytes) -> None:
    store.mark({block // REGION_BLOCKS, (block + len(contents) - 1) // REGION_BLOCKS})
    store.write(block, block_sums(b"".join(contents)), b"".join(contents))


def fold(store: FileStore) -> None:
    while store.fold(64):
        pass
    store.settle_fold()


def layer_names(store: FileStore) -> list[str]:
    return sorted(path.name for path in (store.directory / "layers").iterdir())


def test_a_snapshot_stays_what_the_volume_was(store: FileStore) -> None:
    write(store, 5, X, Y)
    store.seal("monday")
    write(store, 6, Z, X)
    store.mark([0])
    store.zero(5, 1)
    store.seal("tuesday")
    write(store, 5, Y)
    assert store.read(4, 5)[1] == ZERO + Y + Z + X + ZERO
    assert list(store.snapshots) == ["monday", "tuesday"]
    assert store.snapshots["monday"].read(4, 5)[1] == ZERO + X + Y + ZERO + ZERO
    assert store.snapshots["tuesday"].read(4, 5)[1] == ZERO + ZERO + Z + X + ZERO


def test_a_seal_names_one_moment_however_often_it_is_asked_for(store: FileStore) -> None:
    write(store, 5, X)
    store.seal("s")
    write(store, 5, Y)
    store.seal("s")
    assert store.snapshots["s"].read(5, 1)[1] == X
    assert len(layer_names(store)) == 3


def test_what_is_written_while_a_seal_is_prepared_is_in_it(store: FileStore) -> None:
    write(store, 5, X)
    write(store, REGION_BLOCKS, X)
    store.prepare_seal()
    write(store, 5, Y)
    store.sync()
    store.prepare_seal()  # again
    write(store, REGION_BLOCKS, ZERO)
    store.seal("s")
    write(store, 5, Z)
    assert store.snapshots["s"].read(5, 1)[1] == Y
    assert store.snapshots["s"].read(REGION_BLOCKS, 1)[1] == ZERO
    assert store.read(5, 1)[1] == Z
    assert store.read(REGION_BLOCKS, 1)[1] == ZERO


def test_a_volume_that_grew_is_prepared_anew(store: FileStore) -> None:
    write(store, 5, X)
    store.prepare_seal()
    store.grow(SIZE + REGION_BLOCKS)
    store.seal("s")
    write(store, SIZE + 5, Y)
    assert store.read(5, 1)[1] == X
    store.close()
    assert check(store.directory).whole


def test_until_the_first_seal_nothing_is_new_on_the_disk(store: FileStore) -> None:
    assert b'"format": 1' in (store.directory / "format.json").read_bytes()
    assert layer_names(store) == ["0001"]
    store.seal("s")
    assert b'"format": 2' in (store.directory / "format.json").read_bytes()
    assert layer_names(store) == ["0001", "0002", "stack"]


def test_a_sealed_layer_takes_no_space_twice(store: FileStore) -> None:
    write(store, 0, *[X] * 200)
    store.seal("s")
    write(store, 7, Y)
    store.sync()
    assert (store.directory / "layers/0002/data").stat().st_blocks * 512 <= 4 * BLOCK_BYTES


def test_tree_extents_scan_and_digest_are_of_the_volume(store: FileStore, tmp_path: Path) -> None:
    flat = FileStore.create(tmp_path / "flat", Format(*IDENTITY, SIZE), "boot")
    for one in (store, flat):
        write(one, REGION_BLOCKS - 2, X, Y, Z, X)
        if one is store:
            store.seal("s")
        write(one, REGION_BLOCKS, Y)
        one.zero(REGION_BLOCKS - 1, 1)
        one.sync()
    assert store.digests(1, 0, 9) == flat.digests(1, 0, 9)
    assert store.extents(0, SIZE) == flat.extents(0, SIZE)
    assert store.scan(0, 1024)
    assert store.scan(1024, 1024)
    assert store.next_present(1) == 1
    assert digest(store.directory).digest == digest(flat.directory).digest
    flat.close()


def test_rot_below_is_healed_where_it_is(store: FileStore) -> None:
    write(store, 5, X)
    store.seal("s")
    with (store.directory / "layers/0001/data").open("r+b") as file:
        file.seek(5 * BLOCK_BYTES)
        file.write(b"rot")
    assert not store.scan(0, 100)
    assert store.recheck(0, 100) == [5]
    assert store.heal(5, block_sums(X), X, settled=True) == [5]
    assert store.snapshots["s"].read(5, 1)[1] == store.read(5, 1)[1] == X


@pytest.mark.parametrize("newer", [Y, ZERO])
def test_healing_above_a_lost_present_map_leaves_the_snapshot_alone(store: FileStore, newer: bytes) -> None:
    """The map says that the block is one layer below, where the snapshot's own content is."""
    write(store, 5, X)
    store.seal("s")
    write(store, 5, newer)
    store.sync()
    store.unmark([0])
    store.close()
    path = store.directory / "layers/0002/present"
    path.write_bytes(bytes(path.stat().st_size))
    found = again(store)
    if newer == Y:
        with pytest.raises(CorruptBlocks):
            found.read(5, 1)
    assert found.heal(5, block_sums(newer), newer, settled=True) == [5]
    assert found.read(5, 1)[1] == newer
    assert found.snapshots["s"].read(5, 1)[1] == X
    found.close()
    reopened = again(store)
    assert (reopened.read(5, 1)[1], reopened.snapshots["s"].read(5, 1)[1]) == (newer, X)
    reopened.close()


def test_a_deleted_snapshot_is_folded_into_the_next(store: FileStore) -> None:
    write(store, 0, X, Y, Z)
    store.seal("one")
    write(store, 1, Z)
    store.zero(2, 1)
    store.seal("two")
    write(store, 4, X)
    before = store.read(0, 6)
    store.drop("one")
    assert list(store.snapshots) == ["two"]
    fold(store)
    assert layer_names(store) == ["0002", "0003", "stack"]
    assert store.read(0, 6) == before
    assert store.snapshots["two"].read(0, 6)[1] == X + Z + ZERO * 4
    store.drop("two")
    fold(store)
    assert layer_names(store) == ["0003", "stack"]
    assert store.read(0, 6) == before
    store.drop("two")  # again
    store.close()
    assert check(store.directory).whole
    reopened = again(store)
    assert reopened.read(0, 6) == before
    reopened.close()


def test_a_fold_carries_zeros_up(store: FileStore) -> None:
    """Or what was trimmed would come back from the layer below the folded one."""
    write(store, 0, X, Y, Z)
    store.seal("one")
    store.mark([0])
    store.zero(1, 1)
    store.seal("two")
    store.drop("two")
    fold(store)
    assert layer_names(store) == ["0001", "0003", "stack"]
    assert store.read(0, 3)[1] == X + ZERO + Z
    assert store.scan(0, 100)
    assert store.snapshots["one"].read(0, 3)[1] == X + Y + Z


def test_a_write_during_a_fold_wins(store: FileStore) -> None:
    write(store, 0, *[X] * 20)
    store.seal("s")
    store.drop("s")
    write(store, 15, Y)
    assert store.fold(8)
    write(store, 3, Y)
    store.zero(4, 1)
    fold(store)
    assert store.read(0, 20)[1] == X * 3 + Y + ZERO + X * 10 + Y + X * 4


def test_a_seal_during_a_fold_goes_with_it(store: FileStore) -> None:
    write(store, 0, *[X] * 20)
    store.seal("a")
    store.drop("a")
    store.fold(8)
    store.seal("b")
    write(store, 0, Y)
    fold(store)
    assert layer_names(store) == ["0002", "0003", "stack"]
    assert store.snapshots["b"].read(0, 20)[1] == X * 20
    assert store.read(0, 20)[1] == Y + X * 19


def test_an_older_snapshot_is_deleted_in_the_middle_of_a_fold(store: FileStore) -> None:
    """Seen once: the second fold took itself for as far as the first had come, and its layer went uncopied."""
    write(store, 0, X)
    store.seal("old")
    write(store, 1, Y)
    store.seal("new")
    store.drop("new")
    while store.fold(64):
        pass
    store.drop("old")
    store.settle_fold()
    assert store.read(0, 3)[1] == X + Y + ZERO
    fold(store)
    fold(store)
    assert layer_names(store) == ["0003", "stack"]
    assert store.read(0, 3)[1] == X + Y + ZERO


def test_a_fold_that_was_cut_short_begins_again(store: FileStore) -> None:
    write(store, 0, *[X] * 20)
    store.seal("s")
    store.drop("s")
    store.fold(8)
    store.close(clean=False)
    reopened = again(store)
    assert not reopened.snapshots
    fold(reopened)
    assert reopened.read(0, 20)[1] == X * 20
    reopened.close()


def test_a_folded_layer_is_closed_only_when_no_scan_reads_it(store: FileStore) -> None:
    write(store, 0, X)
    store.seal("s")
    lower = store.snapshots["s"]
    store.drop("s")
    with store._layers.scanning():
        fold(store)
        store.fold(1)
        assert lower.own_data(0, 1) == X
    store.fold(1)
    with pytest.raises(StoreError):
        lower.own_data(0, 1)


def test_a_volume_with_snapshots_grows(store: FileStore) -> None:
    write(store, SIZE - 1, X)
    store.seal("s")
    grown = SIZE + 3 * REGION_BLOCKS
    store.grow(grown)
    assert store.read(SIZE - 1, 3)[1] == X + ZERO * 2
    write(store, SIZE, Y)
    store.seal("larger")
    store.close()
    reopened = again(store)
    assert reopened.read(SIZE - 1, 3)[1] == X + Y + ZERO
    assert reopened.snapshots["s"].size_blocks == SIZE
    assert reopened.snapshots["larger"].size_blocks == grown
    for name in ("s", "larger"):
        reopened.drop(name)
        fold(reopened)
    assert reopened.read(SIZE - 1, 3)[1] == X + Y + ZERO
    reopened.close()
    assert check(store.directory).whole


def test_a_power_loss_takes_back_what_was_not_flushed_and_nothing_else(store: FileStore) -> None:
    write(store, 0, X, X, X)
    store.seal("s")
    write(store, 0, Y)
    store.sync()
    write(store, 0, Z)
    write(store, 1, Z)
    store.close(clean=False)
    with (store.directory / "layers/0002/data").open("r+b") as file:  # the data of block 1 never came to the disk
        file.seek(BLOCK_BYTES)
        file.write(ZERO)
    after = again(store, "another boot")
    assert after.unclean
    assert after.read(0, 3)[1] == Z + X + X
    after.close()


def test_names_are_plain(store: FileStore) -> None:
    for name in ("", "A", "a/b", "..", "a" * 97):
        with pytest.raises(ValueError, match="no name for a snapshot"):
            store.seal(name)


def test_there_is_a_most(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.replica.store.stack.LAYERS_MAX", 2)
    store.seal("a")
    with pytest.raises(StoreError, match="delete a snapshot first"):
        store.seal("b")
    assert not store.unclean
    store.seal("a")


def test_a_full_list_fits_into_its_slot(tmp_path: Path) -> None:
    entries = [Entry(2**40 + at, 2**40 + at, f"{at:064d}") for at in range(LAYERS_MAX - 1)]
    with (tmp_path / "stack").open("w+b") as file:
        file.truncate(FILE_BYTES)
        stack = StackFile(file.fileno(), "stack")
        stack.make()
        stack.save([*entries, Entry(2**41)])
        assert len(StackFile(file.fileno(), "stack").open()) == LAYERS_MAX


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [Entry(2), Entry(1)],
        [Entry(1, 0, "s"), Entry(2)],
        [Entry(1, 9, "s"), Entry(2, 9, "s"), Entry(3)],
        [Entry(1, 9, "../x"), Entry(2)],
        [Entry(1, 9, "s"), Entry(2, 8, "t"), Entry(3)],
        [Entry(1, 9, "s")],
        [Entry(0)],
    ],
)
def test_a_list_that_makes_no_sense_is_refused(store: FileStore, entries: list[Entry]) -> None:
    store.seal("s")
    store.close()
    with (store.directory / FILE).open("r+b") as file:
        stack = StackFile(file.fileno(), "stack")
        stack.open()
        stack.save(entries)
    with pytest.raises(FormatError, match="makes no sense"):
        again(store)


@pytest.mark.parametrize("name", ["layers/stack", "layers/0001/data", "layers/0002/present", "layers/0002/sums"])
def test_a_missing_or_torn_file_is_refused(store: FileStore, name: str) -> None:
    store.seal("s")
    store.close()
    path = store.directory / name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert not check(store.directory).whole
    with pytest.raises(FormatError, match="torn"):
        again(store)
    path.unlink()
    with pytest.raises(FormatError, match="missing"):
        again(store)
