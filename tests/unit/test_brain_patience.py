"""A leader that never had a lease gives its voters longer each time: promises that come late count then (A5)."""

from __future__ import annotations

from services.replica.brain import Brain, Facts
from services.replica.brain import events as ev
from services.replica.brain.reign import BARREN_MAX
from tests.support.voters import LEASE, A, B, C, brain, elect, record, slot, step

UNPROMISED = Facts(unpromised=("b", "c"))


def followed() -> Brain:
    machine = brain(A, slot(record(A, B, C)))
    for voter in (B, C):
        step(machine, ev.PeerUp(voter.node))
    return machine


def led_ns(machine: Brain, now_ns: int) -> int:
    """How long it leads without a lease from an election at `now_ns` on."""
    due_ns = machine.candidacy.election_at_ns
    now_ns = max(now_ns, due_ns or 0)
    elect(machine, B, C, now_ns=now_ns)
    began_ns = now_ns
    while machine.role == "leader":
        due = machine.next_deadline_ns(UNPROMISED)
        assert due is not None
        now_ns = max(due, now_ns + 1)
        step(machine, ev.TimePassed(), now_ns, UNPROMISED)
    return now_ns - began_ns


def test_each_reign_without_a_lease_is_longer_than_the_one_before() -> None:
    """*Four hundred volumes, busy nodes: each reign ended before its first promise, and so did the next ones.*"""
    machine = followed()
    now_ns, lasted = 0, []
    for _ in range(BARREN_MAX + 3):
        lasted.append(led_ns(machine, now_ns))
        now_ns += 1 << 40
    wanted = [LEASE << min(number, BARREN_MAX) for number in range(BARREN_MAX + 3)]
    assert [took // LEASE for took in lasted] == [took // LEASE for took in wanted]


def test_a_lease_ends_that() -> None:
    machine = followed()
    for number in range(3):
        led_ns(machine, number << 40)
    now_ns = 9 << 40
    elect(machine, B, C, now_ns=now_ns)
    step(machine, ev.TimePassed(), now_ns, Facts(lease_until_ns=now_ns + LEASE))
    step(machine, ev.TimePassed(), now_ns + 2 * LEASE - 1, UNPROMISED)
    assert machine.role == "leader"
    step(machine, ev.TimePassed(), now_ns + 2 * LEASE, UNPROMISED)
    assert machine.role != "leader", "one lease that ran out, and one without"
    assert led_ns(machine, 10 << 40) // LEASE == 1
