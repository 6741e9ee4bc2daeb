"""Snapshots in the record: what may be, and that a volume without them looks as it did before there were any."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from services.replica.brain import HardState, InvalidRecord, Record, Slot, Snapshot, Stamp, Voter
from services.replica.brain import messages as ms
from stoscore.limits import SNAPSHOTS_MAX
from stoscore.units import MIB

A, B, W = Voter("a", "a" * 16), Voter("b", "b" * 16), Voter("w", "c" * 16, "witness")
RECORD = Record("f" * 32, "data", MIB, 1, (A, B, W), (A, B))
PENDING = Snapshot("monday", MIB, 1)
READY = Snapshot("monday", MIB, 1, 2, "ready", 7 << 40 | 1, "0123456789abcdef", (A.incarnation, B.incarnation))


def _state(record: Record) -> HardState:
    return HardState(A, 3, A, Slot(Stamp(0, 3, 2), record), 1)


def test_a_volume_without_snapshots_is_written_as_before_there_were_any() -> None:
    assert b"snapshots" not in _state(RECORD).encode()
    proposed = ms.Propose(RECORD.volume, A, B, 3, Slot(Stamp(0, 3, 2), RECORD))
    assert b"snapshots" not in ms.encode(proposed)
    assert ms.decode(ms.encode(proposed)) == proposed


@pytest.mark.parametrize("snapshots", [(), (PENDING,), (READY, replace(PENDING, name="tuesday"))])
def test_snapshots_survive_the_disk_and_the_wire(snapshots: tuple[Snapshot, ...]) -> None:
    record = replace(RECORD, snapshots=snapshots)
    assert HardState.decode(_state(record).encode()) == _state(record)
    proposed = ms.Propose(record.volume, A, B, 3, Slot(Stamp(0, 3, 2), record))
    assert ms.decode(ms.encode(proposed)) == proposed


def test_the_largest_record_that_snapshots_make_fits_into_a_slot() -> None:
    members = tuple(Voter("n" * 62 + str(at), f"{at:016x}") for at in range(6))
    longest = [
        Snapshot(
            f"{at:064}",
            MIB,
            1 << 53,
            (1 << 53) - 1,
            "ready",
            2**64 - 1,
            "f" * 16,
            tuple(m.incarnation for m in members),
        )
        for at in range(SNAPSHOTS_MAX)
    ]
    record = Record("f" * 32, "n" * 128, MIB, 5, members, members, snapshots=tuple(longest))
    record.validate()
    assert len(_state(record).encode()) < 32 * 1024


def test_a_holder_is_told_by_its_incarnation() -> None:
    record = replace(RECORD, snapshots=(READY,))
    assert record.holders(READY) == (A, B)
    assert READY.layer == "monday-0000070000000001"
    assert record.snapshot("monday") == READY
    assert record.snapshot("tuesday") is None


BROKEN = [
    replace(PENDING, name=""),
    replace(PENDING, name="Monday"),
    replace(PENDING, name="a" * 65),
    replace(PENDING, size_bytes=1),
    replace(PENDING, created_ms=-1),
    replace(PENDING, seal=1),
    replace(PENDING, holders=(A.incarnation,)),
    replace(READY, seal=0),
    replace(READY, seal=1 << 64),
    replace(READY, root=""),
    replace(READY, holders=(W.incarnation,)),
    replace(READY, holders=("d" * 16,)),
    replace(READY, holders=(A.incarnation, A.incarnation)),
]


@pytest.mark.parametrize("snapshot", BROKEN)
def test_what_breaks_its_own_rules_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(InvalidRecord):
        replace(RECORD, snapshots=(snapshot,)).validate()


def test_names_are_given_once_and_not_too_often() -> None:
    with pytest.raises(InvalidRecord):
        replace(RECORD, snapshots=(READY, PENDING)).validate()
    many = tuple(replace(PENDING, name=f"s{at}") for at in range(SNAPSHOTS_MAX + 1))
    replace(RECORD, snapshots=many[1:]).validate()
    with pytest.raises(InvalidRecord):
        replace(RECORD, snapshots=many).validate()


def test_a_node_of_before_snapshots_says_that_it_does_not_understand() -> None:
    """Its record knows no such field: what an unknown one looks like is the same for every version."""
    proposed = ms.Propose(RECORD.volume, A, B, 3, Slot(Stamp(0, 3, 2), RECORD))
    said = json.loads(ms.encode(proposed))
    said["message"]["slot"]["record"]["later"] = [1]
    with pytest.raises(ms.Newer) as newer:
        ms.decode(json.dumps(said).encode())
    assert newer.value.answer.target == A
