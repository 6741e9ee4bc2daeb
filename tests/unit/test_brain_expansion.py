"""A larger record: agreed on by a majority that has the room, never a smaller one."""

from __future__ import annotations

import pytest

from services.replica.brain import Brain, Facts, Record
from services.replica.brain import events as ev
from stoscore.units import GIB
from tests.support.voters import A, B, C, accept, brain, elect, record, slot, step

LEASED = Facts(lease_until_ns=1 << 60)


def leader(*up: str) -> Brain:
    machine = brain(A, slot(record(A, B, C)))
    voters = [voter for voter in (B, C) if voter.node in up]
    for voter in voters:
        step(machine, ev.PeerUp(voter.node), 0, LEASED)
    elect(machine, *voters)
    accept(machine, *voters)
    return machine


def known(machine: Brain) -> Record:
    assert machine.record is not None
    return machine.record


def test_it_is_answered_when_a_majority_has_grown() -> None:
    machine = leader("b", "c")
    out = step(machine, ev.ExpandAsked(1, 2 * GIB), 0, LEASED)
    assert not [effect for effect in out if isinstance(effect, ev.Reply)]
    out = accept(machine, B)
    assert ev.Reply(1) in out
    committed = [effect.slot.record.size_bytes for effect in out if isinstance(effect, ev.RecordCommitted)]
    assert committed == [2 * GIB]


def test_the_same_or_less_is_so_already() -> None:
    machine = leader("b", "c")
    step(machine, ev.ExpandAsked(1, 2 * GIB), 0, LEASED)
    accept(machine, B, C)
    for size_bytes in (2 * GIB, GIB):
        assert ev.Reply(2) in step(machine, ev.ExpandAsked(2, size_bytes), 0, LEASED) + accept(machine, B, C)
        assert known(machine).size_bytes == 2 * GIB


@pytest.mark.parametrize("size_bytes", [2 * GIB + 1, 2 * GIB + 512])
def test_a_size_that_is_no_number_of_blocks_is_refused(size_bytes: int) -> None:
    machine = leader("b", "c")
    before = known(machine)
    (reply,) = (e for e in step(machine, ev.ExpandAsked(1, size_bytes), 0, LEASED) if isinstance(e, ev.Reply))
    assert reply.code == "INVALID_ARGUMENT"
    assert known(machine) == before


def test_a_volume_that_goes_does_not_grow() -> None:
    machine = leader("b", "c")
    step(machine, ev.DeleteAsked(1), 0, LEASED)
    accept(machine, B)
    (reply,) = (e for e in step(machine, ev.ExpandAsked(2, 2 * GIB), 0, LEASED) if isinstance(e, ev.Reply))
    assert reply.code == "NOT_FOUND"


def test_nobody_but_the_leader_expands() -> None:
    follower = brain(B, slot(record(A, B, C)))
    (reply,) = (e for e in step(follower, ev.ExpandAsked(1, 2 * GIB)) if isinstance(e, ev.Reply))
    assert reply.code == "NOT_PRIMARY"
