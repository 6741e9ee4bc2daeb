"""Crash states of the store: a sample here, 100,000 in the slow suite; and that a broken store does not pass."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.replica.store import disk, file_store, intent, layer, slots, state
from services.replica.store.file_store import FileStore
from services.replica.store.intent import Header, IntentLog
from services.replica.store.slots import SlotPair
from tests.crash.run import IN_MEMORY, Counted, live

STATES = 2500
STATES_WITH_A_BUG_MAX = 6000


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where that is possible: thousands of directories are filled and opened."""
    with tempfile.TemporaryDirectory(prefix="stos-crash-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        yield Path(name)


def _lives(states: int, seed: int, directory: Path) -> Counted:
    counted = Counted()
    while counted.states < states:
        place = directory / str(seed)
        place.mkdir()
        live(seed, place, counted)
        seed += 1
    return counted


def test_every_promise_is_kept_at_every_crash(directory: Path) -> None:
    counted = _lives(STATES, random.randrange(1 << 32), directory)
    assert counted.again > STATES // 20
    assert counted.kills > STATES // 50


def _sums_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    """K1: the data is on the disk and the map that says so is not: the block reads as zeros."""
    patch.setattr(layer, "sync_together", lambda files: disk.sync_data(*files[0]))


def _marks_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    """T3: a write is under way in a region whose mark is only in the page cache."""
    patch.setattr(intent, "sync_data", lambda fd, where: None)


def _state_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A4: a vote was given and forgotten."""
    patch.setattr(state, "sync_data", lambda fd, where: None)


def _the_durable_slot_is_overwritten(patch: pytest.MonkeyPatch) -> None:
    """A torn write of the new state takes the old one with it."""
    patch.setattr(SlotPair, "settle", lambda pair: None)
    patch.setattr(slots, "SLOTS", 1)


def _an_open_store_looks_closed(patch: pytest.MonkeyPatch) -> None:
    """S3: the clean mark stays, so that a replica which lost power takes itself for clean."""
    real = IntentLog.save_header

    def save_header(log: IntentLog, header: Header) -> None:
        if header.closed or header.unclean:
            real(log, header)

    patch.setattr(IntentLog, "save_header", save_header)


def _marked_regions_are_believed(patch: pytest.MonkeyPatch) -> None:
    """D3: new checksum, old data: a read fails after the power loss."""
    patch.setattr(FileStore, "_rehash_marked", lambda store: None)


def _an_unfinished_write_stays_unreadable(patch: pytest.MonkeyPatch) -> None:
    """K2: killed in the middle of a write, and the block is left with the new data under the old checksum."""
    patch.setattr(FileStore, "_rehash_under_pen", lambda store: None)


def _unmarked_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    """T3: the region is unmarked while its last writes are not on the disk."""
    real = file_store.FileStore.write

    def write(store: FileStore, block: int, sums: Any, data: Any) -> None:
        real(store, block, sums, data)
        store._intent.unmark({block // 1024})
        store._intent.settle()

    patch.setattr(FileStore, "write", write)


BUGS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    _sums_are_not_synced,
    _marks_are_not_synced,
    _state_is_not_synced,
    _the_durable_slot_is_overwritten,
    _an_open_store_looks_closed,
    _marked_regions_are_believed,
    _an_unfinished_write_stays_unreadable,
    _unmarked_before_the_flush,
)


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__.strip("_"))
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        _lives(STATES_WITH_A_BUG_MAX, 1, directory)
