"""Following a leader: whose end is told of, and whose a follower has to look for itself."""

from __future__ import annotations

from services.replica.brain import Beat, Brain, Claims, Facts, Promises
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from tests.support.voters import LEASE, TIMING, A, B, C, brain, record, slot, step

THREE = record(A, B, C, primary=A)
CLAIMED = Facts(claimed_by="a")


def follower(facts: Facts, *, in_sync: bool = True) -> Brain:
    """B, which has A's proposal over a link or the bus."""
    stored = THREE if in_sync else record(A, B, C, in_sync=[A, C], primary=A)
    machine = brain(B, slot(stored, 1, 5), epoch=1)
    step(machine, ev.HeardOnBus("a"))
    step(machine, ev.Received(ms.Propose("v", A, B, 2, slot(THREE, 2, 6))), 0, facts)
    assert machine.leader == A
    return machine


def test_a_leader_whose_process_ends_before_its_claim_arrived_is_not_followed_for_ever() -> None:
    """It is back before it was missed, and its new process has nothing to take back: nobody tells of its end."""
    machine = follower(Facts())
    due_ns = machine.next_deadline_ns(Facts())
    assert due_ns is not None and LEASE <= due_ns <= 2 * LEASE
    step(machine, ev.TimePassed(), due_ns)
    assert machine.role == "pre-voting"


def test_a_leader_that_claims_is_followed_until_that_ends() -> None:
    machine = follower(CLAIMED)
    assert machine.candidacy.election_at_ns is None
    step(machine, ev.ClaimLost("a"))
    assert machine.candidacy.election_at_ns is not None


def test_a_claim_that_comes_late_is_found_when_the_follower_looks() -> None:
    machine = follower(Facts())
    due_ns = machine.candidacy.election_at_ns
    assert due_ns is not None
    step(machine, ev.TimePassed(), due_ns, Facts(promised_until_ns=due_ns + LEASE, promised_to="a", claimed_by="a"))
    assert (machine.role, machine.leader, machine.candidacy.election_at_ns) == ("follower", A, None)


def test_who_is_in_sync_only_by_what_is_proposed_looks_as_well() -> None:
    assert follower(Facts(), in_sync=False).candidacy.election_at_ns is not None


def test_who_claims_is_known_whether_the_promise_was_given_or_not() -> None:
    promises = Promises(TIMING, nonce=1)
    promises.on_claims("a", Claims(7, 1, {"v": (0, 2)}), lambda *_: False)
    promises.on_beat("a", Beat(1, 7, 1), 0)
    assert promises.bound("v", 2)[-1] == "a" and promises.promised_until("v") == 0
    promises.on_claims("c", Claims(9, 1, {"v": (0, 3)}), lambda *_: True)
    assert promises.bound("v", 3).claimed_by == "c", "the highest epoch's"
    promises.on_claims("c", Claims(9, 2, {}), lambda *_: True)
    promises.on_claims("a", Claims(8, 0, {}), lambda *_: True)
    assert promises.bound("v", 3).claimed_by == ""
