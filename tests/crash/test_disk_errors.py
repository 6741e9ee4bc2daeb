"""Every call that the store makes to the kernel fails once, in each way a disk can fail: what then?

The failure is told as a StoreError and nothing else; what was flushed before stays; and when the directory is opened
again the replica knows that it counts for nothing (rule S3). A failed sync is final for its process.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from services.replica.store import FileStore, Format, StoreError, block_sums, disk, present
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS
from tests.crash.run import IN_MEMORY, Counted, Life

_LIBC = disk._libc
STEPS = 60
CALLS = ("pwrite", "pread", "fdatasync", "fsync", "open", "rename", "mkdir", "lseek", "truncate")
PUNCH = "fallocate"
_ASKED_FOR = frozenset({*CALLS, PUNCH} - {"truncate"})
"""By a life without growth."""


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where that is possible: many directories are made."""
    with tempfile.TemporaryDirectory(prefix="stos-errors-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        yield Path(name)


class FailingCalls:
    """The kernel's calls, counted; the `fails`-th one is refused with `code`."""

    def __init__(self, fails: int, code: int):
        self._fails = fails
        self._code = code
        self.count = 0
        self.failed = ""

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self._fails:
                self.failed = name
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **options)

        return call

    @contextmanager
    def active(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self.wrap(name, getattr(os, name)))
            patch.setattr(disk, "_libc", self)
            yield

    def fallocate(self, *arguments: int) -> int:
        """As the C library tells an error."""
        try:
            return int(self.wrap(PUNCH, _LIBC.fallocate)(*arguments))
        except OSError:
            ctypes.set_errno(self._code)
            return -1


@pytest.fixture(autouse=True)
def _nothing_is_left_of_crashed_lives() -> None:
    """Their stores were left open on purpose, and would be collected, handles and all, while a test counts its own."""
    gc.collect()


def _handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def _one(directory: Path, seed: int, fails: int, code: int) -> str:
    """The name of the call that failed; "" when the life ended before."""
    before = _handles()
    life = Life(seed, directory, Counted())
    calls = FailingCalls(fails, code)
    refused = False
    with calls.active():
        try:
            life.steps(STEPS)
        except StoreError:
            refused = True
    if refused:
        life.after_an_error()
    else:
        life._store.close(clean=False)
    assert _handles() == before, "something stayed open"
    return calls.failed


@pytest.mark.parametrize(("code", "first"), [(errno.EIO, 1), (errno.ENOSPC, 2)])
def test_every_call_fails_once(code: int, first: int) -> None:
    """Of one life: every other call in one way, those between in the other."""
    where = IN_MEMORY if IN_MEMORY.is_dir() else None
    failed: dict[str, int] = {}
    for fails in range(first, 4000, 2):
        with tempfile.TemporaryDirectory(prefix="stos-errors-", dir=where) as directory:
            name = _one(Path(directory), seed=5, fails=fails, code=code)
        if not name:
            break
        failed[name] = failed.get(name, 0) + 1
    assert set(failed) | {PUNCH} == _ASKED_FOR, "a hole is punched rarely: at calls of one of the two halves"
    assert sum(failed.values()) > 200, "the life is too short to say anything"


def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    life = Life(1, tmp_path, Counted())
    life._write()
    calls = FailingCalls(1, errno.EIO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", calls.wrap("fdatasync", os.fdatasync))
        with pytest.raises(StoreError, match="input/output error"):
            life._store.flush()
        for again in (life._store.flush, life._store.files_to_flush, life._store.sync):
            with pytest.raises(StoreError, match="opened again"):
                again()
    with suppress(StoreError):
        life._store.close()


def test_a_map_that_the_disk_did_not_keep_is_written_again_before_the_layer_below_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page cache shows the bits that a fold's failed sync could not write; the disk has the older ones, and so has
    whoever reads the file after the power was lost."""
    identity = ("c", "a" * 32, "v", "b" * 16, "data")
    store = FileStore.create(tmp_path / "replica", Format(*identity, 64), "boot")
    for block, name in enumerate(("kept", "dropped", "newer")):
        _write(store, block, bytes([block + 1]) * BLOCK_BYTES)
        store.seal(name)
    store.drop("dropped")
    map_file = store.directory / "layers/0003/present"
    kept_by_the_disk = map_file.read_bytes()

    def refuse(fd: int, where: str) -> None:
        raise StoreError("input/output error")

    assert not store.fold(64)
    with monkeypatch.context() as patch:
        patch.setattr(present, "sync_data", refuse)
        with pytest.raises(StoreError, match="input/output error"):
            store.settle_fold()
    assert map_file.read_bytes() != kept_by_the_disk
    store.close(clean=False)

    store = FileStore.open(store.directory, cluster="c", boot_id="boot")
    map_file.write_bytes(kept_by_the_disk)  # what a sync of clean pages leaves there
    assert not store.fold(64)
    store.settle_fold()
    store.close(clean=False)
    store = FileStore.open(store.directory, cluster="c", boot_id="after the power loss")
    assert list(store.snapshots) == ["kept", "newer"]
    assert store.snapshots["newer"].read(1, 1)[1] == bytes([2]) * BLOCK_BYTES
    store.close()


BLOCKS = {5: b"x" * BLOCK_BYTES, 6: b"y" * BLOCK_BYTES, REGION_BLOCKS + 1: b"z" * BLOCK_BYTES}
SIZE = 2 * REGION_BLOCKS


def _write(store: FileStore, block: int, data: bytes) -> None:
    store.mark([block // REGION_BLOCKS])
    store.write(block, block_sums(data), data)


def _made(directory: Path) -> FileStore:
    """With an older snapshot, which the tasks below need."""
    identity = ("c", "a" * 32, "v", "b" * 16, "data")
    store = FileStore.create(directory / "replica", Format(*identity, SIZE), "boot")
    _write(store, 5, b"older".ljust(BLOCK_BYTES, b"."))
    store.seal("older")
    for block, data in BLOCKS.items():
        _write(store, block, data)
    return store


def _seal(store: FileStore) -> None:
    store.seal("newer")


def _drop(store: FileStore) -> None:
    store.drop("older")


def _fold(store: FileStore) -> None:
    store.drop("older")
    while store.fold(64):
        pass
    store.settle_fold()


def _grow(store: FileStore) -> None:
    store.grow(SIZE + REGION_BLOCKS)


TASKS = (_seal, _drop, _fold, _grow)


def _is_all_there(store: FileStore) -> None:
    for block, data in BLOCKS.items():
        assert store.read(block, 1)[1] == data
    if "newer" in store.snapshots:
        assert store.snapshots["newer"].read(6, 1)[1] == BLOCKS[6]
    if "older" in store.snapshots:
        assert store.snapshots["older"].read(5, 2)[1] == b"older".ljust(BLOCK_BYTES, b".") + bytes(BLOCK_BYTES)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__.strip("_"))
def test_what_the_disk_refused_once_is_done_by_asking_again(
    place: Path, task: Callable[[FileStore], None], code: int
) -> None:
    """At each of its calls: the volume and the other snapshot are untouched, and the task is done the second time, in
    the same process unless a failed sync was final for it."""
    for fails in range(1, 500):
        store = _made(place / str(fails))
        calls = FailingCalls(fails, code)
        with calls.active(), suppress(StoreError):
            task(store)
        if not calls.failed:
            store.close()
            break
        _is_all_there(store)
        if store._failure:
            store.close(clean=False)
            store = FileStore.open(store.directory, cluster="c", boot_id="boot")
            assert store.unclean
            _is_all_there(store)
        task(store)
        _is_all_there(store)
        store.close()
        store = FileStore.open(store.directory, cluster="c", boot_id="boot")
        _is_all_there(store)
        store.close()
        shutil.rmtree(place / str(fails))
    assert fails > 1, "it asks the disk for nothing"


def test_handles_run_out(place: Path) -> None:
    """One more is allowed each time: an opening and a seal do all of their work, or refuse and leave nothing open."""
    store = _made(place)
    store.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused, sealed = list[str](), False
    while not sealed:
        before = _handles()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 + len(refused), hard))
        try:
            store = FileStore.open(store.directory, cluster="c", boot_id="boot")
            store.seal("newer")
            sealed = True
        except StoreError as error:
            refused.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            store.close()
        assert _handles() == before
    assert len({told.partition(": too many open files")[0] for told in refused}) > 8, "it ran out in many places"
    store = FileStore.open(store.directory, cluster="c", boot_id="boot")
    _is_all_there(store)
    store.close()
