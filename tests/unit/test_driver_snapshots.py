"""Which sealed layers a copy may let go: none that is ready by a record, none that may be about to be."""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain import Record, Slot, Snapshot, Stamp, Voter
from services.replica.brain.record import layer_name
from services.replica.driver.snapshots import unwanted
from services.replica.replication.messages import first_seq
from stoscore.units import MIB

A = Voter("a", "a" * 16)
RECORD = Record("f" * 32, "data", MIB, 0, (A,), (A,))
PENDING = Snapshot("s", MIB, 1, 4)
READY = Snapshot("s", MIB, 1, 4, "ready", first_seq(3) + 1, "0" * 16, (A.incarnation,))
EPOCH = 3


def slot(*snapshots: Snapshot, epoch: int = EPOCH, version: int = 9) -> Slot:
    return Slot(Stamp(0, epoch, version), replace(RECORD, snapshots=snapshots))


def later(*snapshots: Snapshot) -> Slot:
    """Stored after what is known to be committed."""
    return slot(*snapshots, version=11)


def test_what_is_ready_stays() -> None:
    assert unwanted([READY.layer], slot(READY), slot(READY)) == []
    assert unwanted([READY.layer], slot(PENDING), later(READY)) == [], "ready by what is stored here"


def test_what_was_just_sealed_stays_until_it_is_ready() -> None:
    assert unwanted([READY.layer], slot(PENDING), slot(PENDING)) == []
    assert unwanted([READY.layer], slot(), later(PENDING)) == [], "what is committed is told late"


def test_what_the_latest_record_that_is_stored_does_without_stays_until_that_is_committed() -> None:
    """The record between, which nobody said is committed, made it ready, and may be what the next leader has."""
    assert unwanted([READY.layer], slot(), later()) == []
    assert unwanted([READY.layer], slot(PENDING), later()) == []
    assert unwanted([READY.layer], slot(READY), later()) == []
    assert unwanted([READY.layer], later(), later()) == [READY.layer]


def test_a_deposed_primarys_seal_goes() -> None:
    pending = slot(PENDING, epoch=EPOCH + 1)
    assert unwanted([READY.layer], pending, pending) == [READY.layer]
    assert unwanted([READY.layer], pending, slot(PENDING, epoch=EPOCH + 1, version=11)) == [READY.layer]


def test_a_seal_that_was_repeated_goes_when_the_other_is_ready() -> None:
    again = layer_name("s", first_seq(EPOCH) + 7)
    assert unwanted([again, READY.layer], slot(READY), slot(READY)) == [again]


def test_what_was_dropped_goes() -> None:
    assert unwanted([READY.layer], slot(), slot()) == [READY.layer]


def test_a_name_that_is_no_layers_goes_too() -> None:
    assert unwanted(["by-hand"], slot(PENDING), slot(PENDING)) == ["by-hand"]


def test_names_with_a_dash_are_told_apart() -> None:
    layer = layer_name("s-1", first_seq(EPOCH) + 1)
    assert unwanted([layer], slot(PENDING), slot(PENDING)) == [layer]
    other = slot(replace(PENDING, name="s-1"))
    assert unwanted([layer], other, other) == []
