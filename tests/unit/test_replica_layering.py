"""Layers of a running copy: prepared beside the writes, and what no snapshot needs folded while no seal is awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.replica import layering as layering_module
from services.replica.lanes import Lane
from services.replica.layering import Layering
from services.replica.store import FileStore, Format, StoreError, Unproved, block_sums, check, remove
from services.replica.store import layers as layers_module
from services.replica.store.layers import Layers, copy_allocated
from services.replica.store.sums import FAN_OUT
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS
from tests.support.peers import until

SIZE = 2 * REGION_BLOCKS + 7


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    made = FileStore.create(tmp_path / "replica", Format("c", "f" * 32, "vol", "a" * 16, "data", SIZE), "boot")
    yield made
    made.close(clean=False)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as made:
        yield made


def layering(store: FileStore, pool: ThreadPoolExecutor) -> Layering:
    loop = asyncio.get_running_loop()
    return Layering(store, Lane(loop, pool), Lane(loop, pool), loop)


def put(store: FileStore, block: int, letter: bytes) -> None:
    store.mark([block // REGION_BLOCKS])
    store.write(block, block_sums(letter * BLOCK_BYTES), letter * BLOCK_BYTES)


async def take(layers: Layering, name: str) -> None:
    loop = asyncio.get_running_loop()
    prepared: asyncio.Future[str] = loop.create_future()
    layers.prepare(lambda why_not, failure: prepared.set_result(why_not or str(failure or "")))
    assert await prepared == ""
    sealed: asyncio.Future[StoreError | None] = loop.create_future()
    layers.seal(name, sealed.set_result)
    assert await sealed is None


async def test_prepare_seal_and_hash(store: FileStore, pool: ThreadPoolExecutor) -> None:
    layers = layering(store, pool)
    put(store, 0, b"a")
    put(store, SIZE - 1, b"z")
    await take(layers, "one")
    put(store, 0, b"b")
    assert store.sealed == ("one",)
    assert store.snapshots["one"].read(0, 1)[1] == b"a" * BLOCK_BYTES
    hashed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    layers.hash("one", SIZE, lambda root, failure: hashed.set_result(root))
    root = await hashed
    store.write(0, block_sums(b"a" * BLOCK_BYTES), b"a" * BLOCK_BYTES)
    levels, count = 0, SIZE
    while count > 1:
        levels, count = levels + 1, -(-count // FAN_OUT)
    assert root == int.from_bytes(store.digests(levels, 0, 1), "little"), "the top of the tree that copies compare"
    await layers.stop()


@pytest.mark.parametrize("size_blocks", [1, FAN_OUT, FAN_OUT + 1, REGION_BLOCKS, SIZE])
def test_copies_of_other_sizes_have_the_same_root_hash_for_the_same_blocks(
    store: FileStore, tmp_path: Path, size_blocks: int
) -> None:
    """One has grown already, by a record that the other has not stored yet."""
    smaller = FileStore.create(
        tmp_path / "smaller", Format("c", "f" * 32, "vol", "b" * 16, "data", size_blocks), "boot"
    )
    for copy in (store, smaller):
        put(copy, 0, b"a")
        put(copy, size_blocks - 1, b"z")
        copy.seal("one")
    root = smaller.root("one", size_blocks)
    assert root == store.root("one", size_blocks) and root
    smaller.close(clean=False)


def test_an_empty_volume_has_no_hash_and_what_is_gone_has_none_either(store: FileStore) -> None:
    store.seal("one")
    assert store.root("one", SIZE) == 0
    store.drop("one")
    assert store.root("one", SIZE) is None


async def test_a_root_that_can_not_be_proved_is_told_as_that(store: FileStore, pool: ThreadPoolExecutor) -> None:
    layers = layering(store, pool)
    put(store, 0, b"a")
    await take(layers, "one")
    for name in ("sums", "data"):
        path = store.directory / "layers/0001" / name
        with path.open("r+b") as file:
            file.write(b"rotten..")
    hashed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    layers.hash("one", SIZE, lambda root, failure: hashed.set_result((root, type(failure))))
    assert await hashed == (None, Unproved)
    await layers.stop()


async def test_what_is_dropped_is_folded_by_and_by(store: FileStore, pool: ThreadPoolExecutor) -> None:
    layers = layering(store, pool)
    put(store, 0, b"a")
    await take(layers, "one")
    put(store, 1, b"b")
    await take(layers, "two")
    layers.drop(["one", "nobody"])
    await until(lambda: store.sealed == ("two",) and not store.folds, within_s=60)
    assert store.read(0, 2)[1] == b"a" * BLOCK_BYTES + b"b" * BLOCK_BYTES
    assert store.snapshots["two"].read(0, 1)[1] == b"a" * BLOCK_BYTES
    await until(lambda: len(list((store.directory / "layers").glob("0*"))) == 2, within_s=60)
    await layers.stop()


async def test_between_a_prepare_and_its_seal_nothing_is_folded(store: FileStore, pool: ThreadPoolExecutor) -> None:
    """A fold that is being settled syncs a whole layer, and writes would wait for the seal behind it."""
    layers = layering(store, pool)
    put(store, 0, b"a")
    await take(layers, "one")
    prepared: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    layers.prepare(lambda why_not, failure: prepared.set_result(why_not))
    layers.drop(["one"])
    await prepared
    await asyncio.sleep(0)
    assert store.sealed == ("one",)
    sealed: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    layers.seal("two", sealed.set_result)
    await sealed
    await until(lambda: store.sealed == ("two",) and not store.folds, within_s=60)
    await layers.stop()


def assert_comes(event: threading.Event) -> None:
    assert event.wait(60)


class SlowCopies:
    """A prepare that copies until it is let go."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.begun = threading.Event()
        self.go_on = threading.Event()

        def slow(source: int, target: Path, where: str) -> None:
            self.begun.set()
            assert_comes(self.go_on)
            copy_allocated(source, target, where)

        patch.setattr(layers_module, "copy_allocated", slow)


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowCopies]:
    made = SlowCopies(monkeypatch)
    yield made
    made.go_on.set()


async def test_marks_and_syncs_do_not_wait_for_a_prepare_behind_a_drop(
    store: FileStore, pool: ThreadPoolExecutor, slow_copies: SlowCopies
) -> None:
    """The oldest snapshot is deleted and a new one taken: the drop is under way when the prepare is asked for."""
    slow_copies.go_on.set()
    loop = asyncio.get_running_loop()
    blocks = Lane(loop, pool)
    layers = Layering(store, blocks, Lane(loop, pool), loop)
    put(store, 0, b"a")
    await take(layers, "one")
    slow_copies.go_on.clear()
    slow_copies.begun.clear()
    syncing = threading.Event()
    blocks.run(lambda: lambda: assert_comes(syncing), lambda failure: None)
    layers.drop(["one"])
    await until(lambda: len(blocks._queue) == 1, within_s=60)
    prepared: asyncio.Future[str] = loop.create_future()
    layers.prepare(lambda why_not, failure: prepared.set_result(why_not))
    marked: asyncio.Future[StoreError | None] = loop.create_future()
    blocks.run(lambda: lambda: store.mark([1]), marked.set_result)
    syncing.set()
    await asyncio.wait_for(marked, 30)
    await until(slow_copies.begun.is_set, within_s=60)
    blocks.run(lambda: lambda: store.mark([2]), lambda failure: None)
    await until(lambda: 2 in store.marked, within_s=30)
    assert not prepared.done()
    assert store.sealed == ()
    slow_copies.go_on.set()
    assert await prepared == ""
    await layers.stop()


async def test_a_copy_grows_while_a_prepare_is_under_way(
    store: FileStore, pool: ThreadPoolExecutor, slow_copies: SlowCopies
) -> None:
    """Growing is part of storing a record, and a voter that can't store gives no vote."""
    layers = layering(store, pool)
    put(store, 0, b"a")
    prepared: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    layers.prepare(lambda why_not, failure: prepared.set_result(why_not or str(failure or "")))
    await until(slow_copies.begun.is_set, within_s=60)
    await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, store.grow, SIZE + REGION_BLOCKS), 30)
    put(store, SIZE + 1, b"b")
    assert not prepared.done()
    slow_copies.go_on.set()
    assert await prepared == ""
    sealed: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
    slow_copies.go_on.clear()
    layers.seal("one", sealed.set_result)
    assert await asyncio.wait_for(sealed, 30) is None, "all that takes long was done for the new size"
    assert store.snapshots["one"].read(SIZE + 1, 1)[1] == b"b" * BLOCK_BYTES
    await layers.stop()
    store.close()
    assert check(store.directory).whole


async def test_what_was_left_to_fold_is_folded_by_the_next_process(store: FileStore, pool: ThreadPoolExecutor) -> None:
    put(store, 0, b"a")
    store.seal("one")
    store.drop("one")
    layers = layering(store, pool)
    await until(lambda: not store.folds, within_s=60)
    await layers.stop()


async def test_what_a_clone_has_as_well_is_folded_when_the_clone_is_gone(
    store: FileStore, pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else may happen to the volume for months."""
    monkeypatch.setattr(layering_module, "SHARED_PAUSE_S", 0.05)
    layers = layering(store, pool)
    put(store, 0, b"a")
    await take(layers, "one")
    clone = store.clone("one", tmp_path / "clone", Format("c", "e" * 32, "c", "c" * 16, "data", SIZE), "boot")
    clone.close()
    looks: list[bool] = []
    folds = FileStore.folds.fget
    assert folds is not None
    monkeypatch.setattr(FileStore, "folds", property(lambda of: looks.append(folds(of)) or looks[-1]))
    layers.drop(["one"])
    await until(lambda: store.sealed == () and looks.count(False) > 2, within_s=60)
    assert store.nameless
    remove(tmp_path / "clone")
    await until(lambda: not store.nameless, within_s=60)
    assert store.read(0, 1)[1] == b"a" * BLOCK_BYTES
    await layers.stop()


async def test_no_room_for_a_layer_is_an_answer_and_no_failure(
    store: FileStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Layers, sizes: object) -> None:
        raise StoreError("no space left on device")

    monkeypatch.setattr(Layers, "prepare", refuse)
    layers = layering(store, pool)
    prepared: asyncio.Future[tuple[str, StoreError | None]] = asyncio.get_running_loop().create_future()
    layers.prepare(lambda why_not, failure: prepared.set_result((why_not, failure)))
    assert await prepared == ("no space left on device", None)
    put(store, 0, b"a")
    store.sync()
    await layers.stop()


async def test_a_fold_that_fails_is_told_once(
    store: FileStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Layers, blocks: int) -> bool:
        raise StoreError("input/output error")

    store.seal("one")
    store.drop("one")
    monkeypatch.setattr(Layers, "fold", refuse)
    layers = layering(store, pool)
    told: list[str] = []
    layers.on_failure = lambda error: told.append(str(error))
    await until(lambda: bool(told), within_s=60)
    assert told == ["input/output error"]
    await layers.stop()
