"""A replica that begins as a snapshot of another one: the same files, and neither can tell."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica.store import FileStore, Format, StoreError, block_sums, check, clear_leftovers, digest, remove
from services.replica.store.directory import making_name
from services.replica.store.layer import SHARED
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = 2 * REGION_BLOCKS + 50
ZERO = bytes(BLOCK_BYTES)
X, Y, Z = (letter * BLOCK_BYTES for letter in (b"x", b"y", b"z"))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileStore]:
    store = FileStore.create(tmp_path / "source", Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), "boot")
    yield store
    store.close(clean=False)


def clone(source: FileStore, snapshot: str, size_blocks: int = SIZE, name: str = "clone") -> FileStore:
    return source.clone(
        snapshot, source.directory.with_name(name), Format("c", "c" * 32, name, "d" * 16, "data", size_blocks), "boot"
    )


def write(store: FileStore, block: int, *contents: bytes) -> None:
    store.mark({block // REGION_BLOCKS, (block + len(contents) - 1) // REGION_BLOCKS})
    store.write(block, block_sums(b"".join(contents)), b"".join(contents))


def fold(store: FileStore) -> None:
    while store.fold(64):
        pass
    store.settle_fold()


def layer_names(store: FileStore) -> list[str]:
    return sorted(path.name for path in (store.directory / "layers").iterdir() if path.is_dir())


def test_a_clone_is_the_snapshot_block_by_block_and_goes_its_own_way(source: FileStore) -> None:
    write(source, 0, X, Y, Z)
    source.seal("one")
    write(source, 1, Z)
    source.mark([0])
    source.zero(2, 1)
    source.seal("two")
    write(source, 0, Y)
    copy = clone(source, "two")
    assert not copy.snapshots
    assert not copy.unclean
    assert not copy.restarted
    assert copy.load_state() is None
    for block in range(0, SIZE - 50, 50):
        assert copy.read(block, 50) == source.snapshots["two"].read(block, 50)
    write(copy, 0, Z)
    write(source, 1, X)
    assert copy.read(0, 3)[1] == Z + Z + ZERO
    assert source.read(0, 3)[1] == Y + X + ZERO
    assert source.snapshots["two"].read(0, 3)[1] == X + Z + ZERO
    for store in (copy, source):
        store.close()
        report = check(store.directory)
        assert report.whole, report
        assert any("shared with other replicas" in note for note in report.notes)


def test_a_clone_takes_no_space_twice(source: FileStore) -> None:
    write(source, 0, *[X] * 512)
    source.seal("s")
    alone = source.allocated_bytes()
    copy = clone(source, "s")
    assert (copy.directory / "layers/0001/data").stat().st_ino == (source.directory / "layers/0001/data").stat().st_ino
    shared = source.allocated_bytes() + copy.allocated_bytes()
    assert shared < alone + 64 * BLOCK_BYTES, "what both have is counted once"
    copy.close()


def test_a_clone_may_be_larger_and_grows(source: FileStore) -> None:
    write(source, SIZE - 1, X)
    source.seal("s")
    copy = clone(source, "s", SIZE + REGION_BLOCKS)
    assert copy.read(SIZE - 1, 3)[1] == X + ZERO * 2
    write(copy, SIZE + 5, Y)
    copy.grow(SIZE + 2 * REGION_BLOCKS)
    copy.seal("own")
    write(copy, SIZE - 1, Z)
    assert copy.snapshots["own"].read(SIZE - 1, 7)[1] == X + ZERO * 5 + Y
    copy.close()
    assert check(copy.directory).whole


def test_a_clone_of_a_source_that_is_larger_than_its_record(source: FileStore) -> None:
    """It grew for a record that was never committed: nothing was written beyond."""
    write(source, SIZE - 1, X)
    source.seal("before")
    source.grow(SIZE + 300 * REGION_BLOCKS)
    source.seal("s")
    copy = clone(source, "s")
    expected = source.root("before", SIZE)
    assert expected is not None and copy.origin_root(SIZE) == f"{expected:016x}"
    write(copy, SIZE - 2, Y)
    copy.seal("own")
    copy.drop("own")
    remove_store(source)
    fold(copy)
    assert copy.read(SIZE - 2, 2)[1] == Y + X
    copy.close()
    assert check(copy.directory).whole


def test_a_clone_of_a_clone(source: FileStore) -> None:
    write(source, 0, X, X, X)
    source.seal("s")
    first = clone(source, "s", name="first")
    write(first, 1, Y)
    first.seal("t")
    second = clone(first, "t", name="second")
    write(second, 2, Z)
    remove_store(first)
    remove_store(source)
    assert second.read(0, 3)[1] == X + Y + Z
    second.close()
    assert check(second.directory).whole


def remove_store(store: FileStore) -> None:
    store.close()
    remove(store.directory)


@pytest.mark.parametrize("first", ["source", "clone"])
def test_whoever_goes_leaves_the_other_whole(source: FileStore, first: str) -> None:
    write(source, 0, X, Y)
    source.seal("s")
    copy = clone(source, "s")
    write(copy, 1, Z)
    write(source, 1, X)
    gone, stays = (source, copy) if first == "source" else (copy, source)
    remove_store(gone)
    assert stays.read(0, 2)[1] == (X + Z if stays is copy else X + X)
    stays.close()
    assert check(stays.directory).whole
    reopened = FileStore.open(stays.directory, cluster="c", boot_id="boot")
    fold(reopened)
    assert reopened.read(0, 1)[1] == X
    reopened.close()


def test_what_is_shared_is_not_folded_until_nobody_shares_it(source: FileStore) -> None:
    """Folding would copy every block, and give no space back."""
    write(source, 0, *[X] * 100)
    source.seal("s")
    copy = clone(source, "s")
    source.drop("s")
    fold(source)
    assert layer_names(source) == ["0001", "0002"]
    remove_store(copy)
    fold(source)
    assert layer_names(source) == ["0002"]
    assert source.read(0, 100)[1] == X * 100


def test_a_long_list_is_folded_whoever_shares_it(source: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.replica.store.stack.SHARED_MAX", 2)
    write(source, 0, X, Y)
    source.seal("one")
    write(source, 1, Z)
    source.seal("two")
    copies = [clone(source, snapshot, name=snapshot) for snapshot in ("one", "two")]
    source.drop("one")
    source.drop("two")
    fold(source)
    assert layer_names(source) == ["0002", "0003"]
    assert source.read(0, 2)[1] == X + Z
    assert [copy.read(0, 2)[1] for copy in copies] == [X + Y, X + Z]
    for copy in copies:
        copy.close()
        assert check(copy.directory).whole


def test_a_clone_in_the_middle_of_a_fold(source: FileStore) -> None:
    """The layer above has what was copied up so far, and the clone still looks below it."""
    write(source, 0, *[X] * 40)
    source.seal("old")
    write(source, 5, Y)
    source.seal("new")
    source.drop("old")
    assert source.fold(8)
    copy = clone(source, "new")
    write(source, 0, Z)
    fold(source)
    expected = X * 5 + Y + X * 34
    assert copy.read(0, 40)[1] == source.snapshots["new"].read(0, 40)[1] == expected
    remove_store(source)
    fold(copy)
    fold(copy)
    assert len(layer_names(copy)) == 1
    assert copy.read(0, 40)[1] == expected
    copy.close()
    assert check(copy.directory).whole


def test_both_fold_into_the_same_file(source: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.replica.store.stack.SHARED_MAX", 2)
    write(source, 0, *[X] * 40)
    source.seal("old")
    write(source, 5, Y)
    source.seal("new")
    copy = clone(source, "new")
    source.drop("old")
    for store in (source, copy, source, copy):
        store.fold(8)
    for store in (copy, source):
        fold(store)
        assert "0001" not in layer_names(store)
    expected = X * 5 + Y + X * 34
    assert copy.read(0, 40)[1] == source.snapshots["new"].read(0, 40)[1] == expected
    copy.close()
    assert check(copy.directory).whole


def test_rot_is_not_folded_over_what_another_replica_reads(source: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source folded the block while it was sound; the clone's fold finds it rotten below."""
    monkeypatch.setattr("services.replica.store.stack.SHARED_MAX", 2)
    write(source, 0, X, X, X)
    source.seal("old")
    write(source, 5, Y)
    source.seal("new")
    copy = clone(source, "new")
    source.drop("old")
    fold(source)
    with (copy.directory / "layers/0001/data").open("r+b") as file:
        file.seek(BLOCK_BYTES)
        file.write(b"rot")
    fold(copy)
    assert layer_names(copy) == ["0002", "0003"]
    assert source.snapshots["new"].read(0, 3)[1] == X * 3
    assert copy.read(0, 3)[1] == X * 3
    copy.close()


def test_rot_is_healed_for_both(source: FileStore) -> None:
    write(source, 5, X)
    source.seal("s")
    copy = clone(source, "s")
    with (source.directory / "layers/0001/data").open("r+b") as file:
        file.seek(5 * BLOCK_BYTES)
        file.write(b"rot")
    assert copy.heal(5, block_sums(X), X, settled=True) == [5]
    assert source.read(5, 1)[1] == source.snapshots["s"].read(5, 1)[1] == X
    copy.close()


def test_nothing_is_ever_written_into_a_shared_file_but_what_it_says(source: FileStore) -> None:
    """A life of the clone: the source's files stay as they are, byte for byte."""
    write(source, 0, X, Y, Z)
    source.seal("s")
    files = [source.directory / "layers/0001" / name for name in SHARED]
    before = [path.read_bytes() for path in files]
    copy = clone(source, "s")
    write(copy, 0, Z, ZERO, X)
    copy.zero(2, 1)
    copy.sync()
    copy.seal("own")
    write(copy, 1, Y)
    copy.close(clean=False)
    copy = FileStore.open(copy.directory, cluster="c", boot_id="another boot")
    write(copy, 3, X)
    copy.grow(SIZE + REGION_BLOCKS)
    copy.drop("own")
    fold(copy)
    assert copy.scan(0, 100)
    remove_store(copy)
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EMLINK, "no more links"),
        (errno.EXDEV, "another file system"),
        (errno.EPERM, "no hard links"),
        (errno.ENOSPC, "no space left"),
    ],
)
def test_what_the_file_system_refuses(source: FileStore, monkeypatch: pytest.MonkeyPatch, code: int, told: str) -> None:
    write(source, 0, X)
    source.seal("s")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with pytest.raises(StoreError, match=told):
            clone(source, "s")
    assert sorted(path.name for path in source.directory.parent.iterdir()) == ["source"]
    copy = clone(source, "s")
    assert copy.read(0, 1)[1] == X
    copy.close()


def test_a_torn_clone_is_removed_by_the_next_start(source: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write(source, 0, X)
    source.seal("s")
    with monkeypatch.context() as patch:
        patch.setattr("services.replica.store.directory.sync_path", _cut)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            clone(source, "s")
    torn = making_name(source.directory.with_name("clone"))
    assert (torn / "layers/0001/data").exists()
    clear_leftovers(source.directory.parent)
    assert not torn.exists()
    assert source.snapshots["s"].read(0, 1)[1] == X
    source.close()
    assert not any("shared" in note for note in check(source.directory).notes)


def _cut(_: Path) -> None:
    raise KeyboardInterrupt


def test_bad_requests(source: FileStore) -> None:
    source.seal("s")
    with pytest.raises(StoreError, match="no snapshot 'other'"):
        clone(source, "other")
    with pytest.raises(StoreError, match="has no snapshot ''"):
        clone(source, "")
    copy = clone(source, "s")
    with pytest.raises(StoreError, match="exists already"):
        clone(source, "s")
    copy.close()
    assert digest(copy.directory).digest == digest(source.directory).digest
