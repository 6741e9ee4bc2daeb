"""Clones at every crash: of the making of one, and of a source whose files clones fold into at the same time.

The source's directory is recorded as in `run`; its clones are beside it and share its sealed files, so what they write
there is recorded too. Layers are folded whoever shares them, which in service only long lists are.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from services.replica.store import FileStore, Format, StoreError, block_sums, check, clear_leftovers, remove
from services.replica.store.layer import Layer
from stoscore.units import BLOCK_BYTES
from tests.crash.promises import ZEROS
from tests.crash.run import IN_MEMORY, SIZE_BLOCKS, Counted, Life

STATES = 800
CLONES_MAX = 2


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stos-clones-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        yield Path(name)


class FamilyLife(Life):
    """A life with clones beside it."""

    def __init__(self, seed: int, directory: Path, counted: Counted):
        super().__init__(seed, directory, counted)
        self._clones: list[tuple[FileStore, dict[int, bytes]]] = []
        self._made = 0

    def steps(self, count: int) -> None:
        steps = (
            *(self._write, self._write, self._zero, self._sync, self._settle, self._reopen, self._prepare),
            *(self._seal, self._seal, self._drop, self._fold, self._fold, self._clone, self._clone),
            *(self._fold_clone, self._fold_clone, self._fold_clone),
        )
        for _ in range(count):
            self._choice.choice(steps)()
        for store, content in self._clones:
            _agree(store, content)
            store.close()
            assert check(store.directory).whole

    def _clone(self) -> None:
        if not self._store.snapshots:
            return
        if len(self._clones) == CLONES_MAX:
            store, content = self._clones.pop(0)
            _agree(store, content)
            store.close()
            remove(store.directory)
        self._made += 1
        name = self._choice.choice(sorted(self._store.snapshots))
        content = self._promises.snapshots[name]
        self._clones.append((clone(self._store, name, self._directory / f"clone-{self._made}"), content))

    def _fold_clone(self) -> None:
        if self._clones:
            store, content = self._choice.choice(self._clones)
            if not store.fold(self._choice.choice((3, 1000))):
                store.settle_fold()
            _agree(store, content)


def clone(source: FileStore, snapshot: str, directory: Path) -> FileStore:
    return source.clone(snapshot, directory, Format("c", "c" * 32, "clone", "d" * 16, "data", SIZE_BLOCKS), "boot")


def _agree(store: FileStore, content: dict[int, bytes]) -> None:
    for block, data in content.items():
        assert store.read(block, 1)[1] == data, f"block {block} of a clone is not what the snapshot was"


def live(states: int, seed: int, directory: Path) -> None:
    counted = Counted()
    while counted.states < states:
        place = directory / str(seed)
        place.mkdir()
        try:
            FamilyLife(seed, place, counted).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        shutil.rmtree(place)
        seed += 1


def test_a_source_keeps_its_promises_while_its_clones_fold(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.replica.store.stack.SHARED_MAX", 1)
    live(STATES, random.randrange(1 << 32), directory)


def _clones_take_writes_in_the_shared_layer(patch: pytest.MonkeyPatch) -> None:
    """What the newest layer of a clone should take goes into the file that the source reads."""
    real = FileStore.fold

    def fold(store: FileStore, blocks: int) -> bool:
        below = store._layer.below
        if "clone" in store.directory.name and below is not None:
            below.write(5, block_sums(b"!" * BLOCK_BYTES), b"!" * BLOCK_BYTES)
        return real(store, blocks)

    patch.setattr(FileStore, "fold", fold)


def _a_fold_overtakes_what_is_above(patch: pytest.MonkeyPatch) -> None:
    """What is older, in the layer below, is copied over what is newer and shared."""
    real = Layer.adopt

    def adopt(upper: Layer, lower: Layer, block: int, count: int) -> int:
        for at, length, here in lower.own_runs(block, count):
            if here and upper.shared:
                upper._write_runs(at, lower.sums.read(at, length), memoryview(lower.own_data(at, length)))
        return real(upper, lower, block, count)

    patch.setattr(Layer, "adopt", adopt)


@pytest.mark.long
@pytest.mark.parametrize(
    "plant", [_clones_take_writes_in_the_shared_layer, _a_fold_overtakes_what_is_above], ids=lambda p: p.__name__[1:]
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.replica.store.stack.SHARED_MAX", 1)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        live(3000, 1, directory)


class Cut(BaseException):
    """The process ends here: nothing is cleaned up."""


CALLS = ("link", "pwrite", "fdatasync", "fsync", "rename", "mkdir", "open", "truncate")


def prepared(directory: Path) -> FileStore:
    store = FileStore.create(directory / "source", Format("c", "a" * 32, "v", "b" * 16, "data", SIZE_BLOCKS), "boot")
    for block, name in ((5, "one"), (7, "two")):
        store.mark([0])
        store.write(block, block_sums(b"x" * BLOCK_BYTES), b"x" * BLOCK_BYTES)
        store.seal(name)
    return store


@pytest.mark.parametrize("how", ["error", "kill"])
def test_the_making_of_a_clone_stops_anywhere(directory: Path, how: str) -> None:
    """With an error: it says so and leaves nothing. Killed: the next start of the node finds it whole, or nothing."""
    source = prepared(directory)
    outcomes = set()
    for stops in range(1, 500):
        left = stops

        def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Cut if how == "kill" else OSError(28, os.strerror(28))
                return real(*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, stopping(getattr(os, name)))
            if how == "kill":
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with suppress(Cut, StoreError):
                clone(source, "two", directory / "clone").close(clean=False)
        clear_leftovers(directory)
        made = (directory / "clone").exists()
        outcomes.add(made)
        assert sorted(path.name for path in directory.iterdir()) == (["clone"] if made else []) + ["source"]
        if made:
            again = FileStore.open(directory / "clone", cluster="c", boot_id="boot")
            assert again.read(4, 5)[1] == ZEROS + b"x" * BLOCK_BYTES + ZEROS + b"x" * BLOCK_BYTES + ZEROS
            again.close()
            assert check(directory / "clone").whole
            remove(directory / "clone")
        if left > 0:
            break
    assert left > 0 and stops > 30, "every call was stopped once"
    assert outcomes == {True, False}
    assert source.snapshots["two"].read(5, 1)[1] == b"x" * BLOCK_BYTES
    source.close()
    assert check(directory / "source").whole
