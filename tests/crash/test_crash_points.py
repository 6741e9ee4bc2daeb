"""Crash states of the store: a sample here, 100,000 in the slow suite; and that a broken store does not pass."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.replica.store import disk, intent, layer, layers, recovery, slots, state, sum_map
from services.replica.store.file_store import FileStore
from services.replica.store.intent import Header, IntentLog
from services.replica.store.present import PresentMap
from services.replica.store.recovery import Recovery
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


def _the_data_are_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """K1: a flush is answered and its blocks are in the page cache."""
    patch.setattr(layer, "sync_data", lambda fd, where: None)


def _sums_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    """T3: a region is unmarked, and its sums on the disk are older than its data."""
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
    patch.setattr(Recovery, "_rehash_marked", lambda found: None)


def _an_unfinished_write_stays_unreadable(patch: pytest.MonkeyPatch) -> None:
    """K2: killed in the middle of a write, and the block is left with the new data under the old checksum."""
    patch.setattr(Recovery, "_rehash_under_pen", lambda found: None)


def _unmarked_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    """T3: the region is unmarked while its last writes are not on the disk."""
    real = FileStore.write

    def write(store: FileStore, block: int, sums: Any, data: Any) -> None:
        real(store, block, sums, data)
        store._intent.unmark({block // 1024})
        store._intent.settle()

    patch.setattr(FileStore, "write", write)


def _a_bit_is_durable_before_its_data(patch: pytest.MonkeyPatch) -> None:
    """K1: the block is said to be in the newest layer, whose file has zeros there."""
    real = PresentMap.add

    def add(present: PresentMap, block: int, count: int) -> None:
        real(present, block, count)
        present.save(present.capture())

    patch.setattr(PresentMap, "add", add)


def _the_present_map_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    """K1: a flushed block is looked for in the layer below, where an older one is."""
    patch.setattr(PresentMap, "save", lambda present, captured: None)


def _every_sum_is_believed(patch: pytest.MonkeyPatch) -> None:
    """Every sum is believed after a power loss, that of data which never came to the disk too."""
    real = recovery.regain
    believe = lambda layer, block, count, believed: real(layer, block, count, believed=True)  # noqa: E731
    patch.setattr(recovery, "regain", believe)


def _nothing_is_regained(patch: pytest.MonkeyPatch) -> None:
    """A killed process loses what was written since the last sync."""
    patch.setattr(recovery, "regain", lambda layer, block, count, believed: None)


def _a_trim_does_not_hide_what_is_below(patch: pytest.MonkeyPatch) -> None:
    real = layer.Layer.zero

    def zero(top: layer.Layer, block: int, count: int) -> None:
        with pytest.MonkeyPatch.context() as blind:
            blind.setattr(PresentMap, "add", lambda present, block, count: None)
            real(top, block, count)

    patch.setattr(layer.Layer, "zero", zero)


def _a_sealed_layer_takes_writes(patch: pytest.MonkeyPatch) -> None:
    real = FileStore.seal

    def seal(store: FileStore, snapshot: str) -> None:
        sealed = store._layer
        real(store, snapshot)
        store._layer = sealed

    patch.setattr(FileStore, "seal", seal)


def _a_new_layer_is_listed_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layers, "sync_path", lambda path: None)


def _writes_since_the_preparation_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The new layer has checksums of before."""
    patch.setattr(sum_map.SumMap, "watched", [])


def _a_layer_goes_before_its_copy_is_durable(patch: pytest.MonkeyPatch) -> None:
    real = layers.Layers.settle

    def settle(all_layers: layers.Layers) -> None:
        with pytest.MonkeyPatch.context() as hasty:
            hasty.setattr(layer.Layer, "sync", lambda layer: None)
            real(all_layers)

    patch.setattr(layers.Layers, "settle", settle)


def _a_fold_overtakes_a_write(patch: pytest.MonkeyPatch) -> None:
    """What is older, in the layer below, is copied over what is newer."""
    real = layer.Layer.adopt

    def adopt(upper: layer.Layer, lower: layer.Layer, block: int, count: int) -> int:
        for at, length, here in lower.own_runs(block, count):
            if here:
                upper._write_runs(at, lower.sums.read(at, length), memoryview(lower.own_data(at, length)))
        return real(upper, lower, block, count)

    patch.setattr(layer.Layer, "adopt", adopt)


BUGS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    _the_data_are_not_flushed,
    _sums_are_not_synced,
    _marks_are_not_synced,
    _state_is_not_synced,
    _the_durable_slot_is_overwritten,
    _an_open_store_looks_closed,
    _marked_regions_are_believed,
    _an_unfinished_write_stays_unreadable,
    _unmarked_before_the_flush,
    _a_bit_is_durable_before_its_data,
    _the_present_map_is_not_synced,
    _every_sum_is_believed,
    _nothing_is_regained,
    _a_trim_does_not_hide_what_is_below,
    _a_sealed_layer_takes_writes,
    _a_new_layer_is_listed_before_it_is_durable,
    _writes_since_the_preparation_are_forgotten,
    _a_layer_goes_before_its_copy_is_durable,
    _a_fold_overtakes_a_write,
)


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__.strip("_"))
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        _lives(STATES_WITH_A_BUG_MAX, 1, directory)
