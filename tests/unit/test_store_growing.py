"""A replica grows while it is used, and a power loss in the middle leaves it whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.replica.store import Format, growing
from services.replica.store.file_store import FileStore
from services.replica.store.format import FILE
from services.replica.store.intent import CELL_REGIONS, regions_of
from services.replica.store.port import FormatError, StoreError
from services.replica.store.sums import block_sums
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

BEFORE, AFTER = REGION_BLOCKS + 100, 3 * REGION_BLOCKS + 7
IDENTITY = ("c", "a" * 32, "data", "b" * 16, "data")
CONTENT = b"x" * BLOCK_BYTES


def opened(path: Path) -> FileStore:
    return FileStore.open(path, cluster="c", boot_id="boot")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed replica with its last block written."""
    directory = tmp_path / ("a" * 32)
    store = FileStore.create(directory, Format(*IDENTITY, BEFORE), "boot")
    write(store, BEFORE - 1)
    store.close()
    return directory


def write(store: FileStore, block: int) -> None:
    store.mark([block // REGION_BLOCKS])
    store.write(block, block_sums(CONTENT), CONTENT)


def check(store: FileStore, size_blocks: int) -> None:
    assert store.size_blocks == size_blocks
    assert store.read(BEFORE - 1, 1)[1] == CONTENT
    if size_blocks > BEFORE:
        assert store.read(BEFORE, size_blocks - BEFORE)[1] == bytes((size_blocks - BEFORE) * BLOCK_BYTES)


def test_what_was_there_stays_and_what_is_new_can_be_used(path: Path) -> None:
    store = opened(path)
    with pytest.raises(ValueError, match="blocks"):
        store.read(BEFORE, 1)
    store.grow(AFTER)
    check(store, AFTER)
    write(store, AFTER - 1)
    store.sync()
    store.grow(AFTER)
    store.grow(BEFORE)  # never smaller
    store.close()
    store = opened(path)
    assert store.size_blocks == AFTER
    assert store.read(AFTER - 1, 1)[1] == store.read(BEFORE - 1, 1)[1] == CONTENT
    store.close()


def test_a_grown_replica_has_the_hashes_of_one_that_was_made_so(path: Path, tmp_path: Path) -> None:
    grown, made = (
        opened(path),
        FileStore.create(tmp_path / "m", Format(*IDENTITY, AFTER), "boot"),
    )
    grown.grow(AFTER)
    for store in (grown, made):
        write(store, BEFORE - 1)
        write(store, AFTER - 2)
    for level, nodes in ((1, -(-AFTER // 256)), (2, 1)):
        assert grown.digests(level, 0, nodes) == made.digests(level, 0, nodes)
    grown.close()
    made.close()


def test_the_intent_log_gets_more_cells(tmp_path: Path) -> None:
    few, many = REGION_BLOCKS, (CELL_REGIONS + 1) * REGION_BLOCKS
    store = FileStore.create(tmp_path / "s", Format(*IDENTITY, few), "boot")
    store.mark([0])
    store.grow(many)
    store.mark([CELL_REGIONS])
    store.close(clean=False)
    store = opened(tmp_path / "s")
    assert store.marked == {0, CELL_REGIONS}
    assert regions_of(store.size_blocks) == CELL_REGIONS + 1
    store.close()


Step = Callable[[Path, FileStore], None]


def announced(path: Path, store: FileStore) -> None:
    from dataclasses import replace

    growing.announce(path, replace(store.format, size_blocks=AFTER))


def half_extended(path: Path, store: FileStore) -> None:
    announced(path, store)
    with (path / "layers/0001/data").open("r+b") as file:
        file.truncate(AFTER * BLOCK_BYTES)


def extended(path: Path, store: FileStore) -> None:
    from dataclasses import replace

    announced(path, store)
    growing.extend(path, store.format, replace(store.format, size_blocks=AFTER))


@pytest.mark.parametrize("step", [announced, half_extended, extended])
def test_whoever_opens_it_goes_on_from_there(path: Path, step: Step) -> None:
    store = opened(path)
    step(path, store)
    store.close(clean=False)
    for _ in range(2):
        store = opened(path)
        check(store, AFTER)
        store.close()
    assert not (path / growing.NEXT).exists()


def test_an_announcement_that_was_never_finished_is_none(path: Path) -> None:
    (path / f".{growing.NEXT}").write_bytes((path / FILE).read_bytes()[:20])
    store = opened(path)
    check(store, BEFORE)
    store.close()


def test_another_replicas_announcement_and_a_torn_file_are_refused(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    text = (path / FILE).read_text()
    (path / growing.NEXT).write_text(text.replace("b" * 16, "c" * 16))
    with pytest.raises(FormatError, match=growing.NEXT):
        opened(path)
    store = opened(copy)
    announced(copy, store)
    store.close()
    with (copy / "layers/0001/data").open("r+b") as file:
        file.truncate(BLOCK_BYTES)
    with pytest.raises(FormatError, match="torn"):
        opened(copy)


def test_a_disk_that_refuses_leaves_the_old_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(path)

    def refuses(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(growing.os, "truncate", refuses)
        with pytest.raises(StoreError, match="space"):
            store.grow(AFTER)
        check(store, BEFORE)
    store.grow(AFTER)
    check(store, AFTER)
    store.close()
