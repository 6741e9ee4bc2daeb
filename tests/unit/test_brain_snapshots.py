"""Snapshots at the leader: asked for, sealed once everybody knows, ready or gone; who waits is answered (K4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Brain, Facts, HardState, Record, Snapshot, Stamp, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.decisions import replay
from services.replica.brain.snapshots import held_by_members
from stoscore.limits import SNAPSHOTS_MAX
from stoscore.units import GIB, MIB, SECOND
from tests.support.voters import A, B, C, accept, brain, elect, record, slot, step

LEASED = Facts(lease_until_ns=1 << 60)
ROOT = "0123456789abcdef"
SIZE = 4 * MIB


def with_snapshots(*snapshots: Snapshot) -> Record:
    return replace(record(A, B, C), snapshots=snapshots)


def ready(name: str, *holders: Voter, asked: int = 1) -> Snapshot:
    return Snapshot(name, SIZE, 1, asked, "ready", 7 << 40, ROOT, tuple(holder.incarnation for holder in holders))


def leader(accepted: Record | None = None) -> Brain:
    machine = brain(A, slot(accepted or record(A, B, C)))
    for voter in (B, C):
        step(machine, ev.PeerUp(voter.node), 0, LEASED)
    elect(machine, B, C)
    accept(machine, B, C)
    return machine


def known(machine: Brain) -> Record:
    assert machine.record is not None
    return machine.record


def taken(machine: Brain, name: str = "s", request: int = 1) -> list[ev.Effect]:
    """Asked for, and known to all."""
    out = step(machine, ev.TakeAsked(request, name, 1), 0, LEASED)
    return out + accept(machine, B, C)


def sealed(machine: Brain, name: str = "s", *holders: Voter, asked: int | None = None) -> list[ev.Effect]:
    snapshot = known(machine).snapshot(name)
    assert snapshot is not None
    report = ev.SnapshotSealed(name, snapshot.asked if asked is None else asked, 7 << 40, SIZE, ROOT, holders or (A, B))
    return step(machine, report, 0, LEASED)


def orders(effects: list[ev.Effect]) -> list[ev.SealSnapshot]:
    return [effect for effect in effects if isinstance(effect, ev.SealSnapshot)]


def replies(effects: list[ev.Effect]) -> list[ev.Reply]:
    return [effect for effect in effects if isinstance(effect, ev.Reply)]


def test_it_is_pending_then_sealed_then_ready_and_then_answered() -> None:
    machine = leader()
    out = step(machine, ev.TakeAsked(1, "s", 17), 0, LEASED)
    assert not orders(out), "a record that is not committed orders nothing"
    assert not orders(accept(machine, B)), "c is there and does not know yet"
    (order,) = orders(accept(machine, C))
    pending = known(machine).snapshot("s")
    assert pending is not None and (pending.state, pending.created_ms) == ("pending", 17)
    assert order == ev.SealSnapshot("s", pending.asked, ("b", "c"))
    assert not replies(sealed(machine, "s", A, C))
    assert replies(accept(machine, B)) == [ev.Reply(1)]
    found = known(machine).snapshot("s")
    assert found is not None and found.state == "ready" and known(machine).holders(found) == (A, C)


def test_a_member_that_does_not_store_the_record_is_waited_for_one_lease() -> None:
    machine = leader()
    step(machine, ev.TakeAsked(1, "s", 1), 0, LEASED)
    accept(machine, B)
    due = machine.next_deadline_ns(LEASED)
    assert due is not None and due <= machine.local.timing.lease_ns
    (order,) = orders(step(machine, ev.TimePassed(), machine.local.timing.lease_ns, LEASED))
    assert order.nodes == ("b",)


def test_the_same_name_again_is_the_same_snapshot() -> None:
    machine = leader()
    taken(machine)
    assert not replies(taken(machine, request=2)), "it waits as well"
    sealed(machine)
    assert replies(accept(machine, B)) == [ev.Reply(1), ev.Reply(2)]
    assert not replies(step(machine, ev.TakeAsked(3, "s", 3), 0, LEASED)), "is it still the leader?"
    assert replies(accept(machine, B)) == [ev.Reply(3)]
    assert len(known(machine).snapshots) == 1


def test_a_snapshot_whose_holders_are_all_gone_is_not_said_to_be_there() -> None:
    """Its last holder was given up by an operator, or re-placed: asked for again, it was answered as ready."""
    machine = leader(with_snapshots(ready("s")))
    out = step(machine, ev.TakeAsked(5, "s", 1), 0, LEASED)
    [reply] = [effect for effect in out if isinstance(effect, ev.Reply)]
    assert (reply.request, reply.code) == (5, "DATA_LOSS")
    step(machine, ev.DropAsked(6, "s"), 0, LEASED)
    assert ev.Reply(6) in accept(machine, B, C)


def test_several_are_sealed_one_after_the_other() -> None:
    machine = leader()
    taken(machine, "s")
    assert not orders(taken(machine, "t", 2))
    sealed(machine, "s")
    (order,) = orders(accept(machine, B, C))
    assert order.name == "t"


def test_a_volume_grows_after_what_is_being_sealed() -> None:
    """*Copies grew between the Prepare and the Seal: the snapshot was a file system larger than its device.*"""
    machine = leader()
    taken(machine)
    step(machine, ev.TakeAsked(2, "t", 1), 0, LEASED)
    accept(machine, B, C)
    before = known(machine)
    assert not replies(step(machine, ev.ExpandAsked(3, 2 * GIB), 0, LEASED)), "it waits"
    assert known(machine) == before
    step(machine, ev.MemberFailed(C, "its link ended"), 0, LEASED)
    accept(machine, B)
    assert known(machine).in_sync == (A, B), "nothing else does"
    sealed(machine)
    out = accept(machine, B)
    assert replies(out) == [ev.Reply(1)] and not orders(out)
    assert known(machine).size_bytes == 2 * GIB, "and before the next one is"
    out = accept(machine, B)
    assert replies(out) == [ev.Reply(3)]
    (order,) = orders(out)
    assert order.name == "t"


@pytest.mark.parametrize("end", ["dropped", "failed", "deposed"])
def test_a_volume_grows_when_what_is_being_sealed_comes_to_nothing(end: str) -> None:
    machine = leader()
    taken(machine)
    step(machine, ev.ExpandAsked(2, 2 * GIB), 0, LEASED)
    if end == "deposed":
        out = step(machine, ev.StoreChanged(False, "the disk is gone", votes=False), 0, LEASED)
        assert ev.Reply(2, "NOT_PRIMARY", "it stopped being the primary") in out
        return
    pending = known(machine).snapshot("s")
    assert pending is not None
    step(machine, ev.DropAsked(3, "s") if end == "dropped" else ev.SealFailed("s", pending.asked, "no"), 0, LEASED)
    accept(machine, B)
    assert ev.Reply(2) in accept(machine, B)
    assert known(machine).size_bytes == 2 * GIB


def test_dropped_while_it_is_sealed_and_asked_for_again_it_is_another_one() -> None:
    """The older layer lacks what was written between."""
    machine = leader()
    taken(machine)
    before = known(machine).snapshot("s")
    assert before is not None
    out = step(machine, ev.DropAsked(2, "s"), 0, LEASED) + accept(machine, B, C)
    assert [(reply.request, reply.code) for reply in replies(out)] == [(2, ""), (1, "ABORTED")]
    (order,) = orders(taken(machine, "s", 3))
    assert order.asked != before.asked
    sealed(machine, asked=before.asked)
    found = known(machine).snapshot("s")
    assert found is not None and found.state == "pending"


def says_nothing_of_it(machine: Brain, voter: Voter, what: str = "propose of version 1") -> list[ev.Effect]:
    """Its version is from before snapshots."""
    return step(machine, ev.Received(ms.NotUnderstood("v", voter, A, what, 1)), 0, LEASED)


def refused_for(node: str) -> ev.Reply:
    why = f"node {node} runs a version that does not know snapshots: upgrade it first"
    return ev.Reply(1, "FAILED_PRECONDITION", f"snapshot s can't be taken: {why}")


def test_what_a_voter_does_not_understand_is_taken_back() -> None:
    """*Never committed, it was the one change on its way: no shrink, no attachment got through any more.*"""
    machine = leader()
    before = known(machine)
    step(machine, ev.TakeAsked(1, "s", 1), 0, LEASED)
    assert not replies(says_nothing_of_it(machine, B)), "the record may be stored by somebody: not before its end"
    assert known(machine) == before
    assert replies(accept(machine, C)) == [refused_for("b")]
    says_nothing_of_it(machine, B)
    step(machine, ev.AttachAsked(2, "n"), 0, LEASED)
    assert replies(accept(machine, B)) == [ev.Reply(2)]


def test_so_it_is_when_a_majority_has_stored_it_by_then() -> None:
    """*It would not understand the next leader either, whose record it has to store when the first one dies.*"""
    machine = leader()
    step(machine, ev.TakeAsked(1, "s", 1), 0, LEASED)
    accept(machine, B)
    says_nothing_of_it(machine, C)
    assert known(machine).snapshots == ()
    assert replies(accept(machine, C)) == [refused_for("c")]


def test_what_else_is_not_understood_takes_nothing_back() -> None:
    machine = leader()
    step(machine, ev.TakeAsked(1, "s", 1), 0, LEASED)
    before = known(machine)
    says_nothing_of_it(machine, B, "offer of version 1")
    says_nothing_of_it(machine, Voter("stranger", "1" * 16))
    assert known(machine) == before


def test_one_that_can_not_be_taken_is_forgotten_and_said_so() -> None:
    machine = leader()
    taken(machine)
    pending = known(machine).snapshot("s")
    assert pending is not None
    step(machine, ev.SealFailed("s", pending.asked, "no space"), 0, LEASED)
    (reply,) = replies(accept(machine, B))
    assert (reply.request, reply.code) == (1, "RESOURCE_EXHAUSTED") and "no space" in reply.error
    assert known(machine).snapshots == ()


def test_what_is_not_there_is_dropped_already() -> None:
    machine = leader()
    assert not replies(step(machine, ev.DropAsked(1, "s"), 0, LEASED)), "is it still the leader?"
    assert replies(accept(machine, B)) == [ev.Reply(1)]


def test_one_more_than_there_may_be_is_refused() -> None:
    machine = leader(with_snapshots(*(ready(f"s{at}", A, asked=at) for at in range(SNAPSHOTS_MAX))))
    (reply,) = replies(step(machine, ev.TakeAsked(1, "s", 1), 0, LEASED))
    assert reply.code == "RESOURCE_EXHAUSTED"


def test_a_volume_with_snapshots_is_not_deleted_and_one_that_goes_takes_none() -> None:
    machine = leader(with_snapshots(ready("s", A)))
    (reply,) = replies(step(machine, ev.DeleteAsked(1), 0, LEASED))
    assert reply.code == "FAILED_PRECONDITION"
    machine = leader()
    step(machine, ev.DeleteAsked(1), 0, LEASED)
    accept(machine, B, C)
    (reply,) = replies(step(machine, ev.TakeAsked(2, "s", 1), 0, LEASED))
    assert reply.code == "NOT_FOUND"


def test_whoever_waits_is_sent_on_when_the_leader_stops_and_the_next_one_seals() -> None:
    machine = leader()
    taken(machine)
    (reply,) = replies(step(machine, ev.Stopping(), 0, LEASED))
    assert (reply.request, reply.code) == (1, "NOT_PRIMARY")
    pending = known(machine)
    successor = brain(A, slot(replace(pending, primary=None)))
    for voter in (B, C):
        step(successor, ev.PeerUp(voter.node), 0, LEASED)
    elect(successor, B, C)
    (order,) = orders(accept(successor, B, C))
    assert order.name == "s"


def test_who_is_no_member_any_more_holds_nothing() -> None:
    held = replace(with_snapshots(ready("s", A, B, C), ready("t", A, asked=2)), voters=(A, B), in_sync=(A, B))
    kept = held_by_members(held)
    kept.validate()
    assert [snapshot.holders for snapshot in kept.snapshots] == [(A.incarnation, B.incarnation), (A.incarnation,)]
    assert held_by_members(kept) is kept


def test_one_that_loses_its_last_holder_is_told_to_be_lost() -> None:
    gone = ready("s", C)
    machine = leader(with_snapshots(gone))
    without = replace(known(machine), voters=(A, B), in_sync=(A, B))
    machine.leading._proposing.put(without)
    out = accept(machine, A, B)
    told = [effect for effect in out if isinstance(effect, ev.Explain) and "lost" in effect.outcome]
    assert len(told) == 1 and "only c had it" in told[0].outcome
    assert replay(told[0].inputs).outcome == told[0].outcome
    assert known(machine).snapshots[0].holders == ()


@pytest.mark.parametrize(
    "change", [ev.TakeAsked(1, "s", 1), ev.DropAsked(1, "t"), ev.SnapshotSealed("p", 3, 7 << 40, SIZE, ROOT, (A,))]
)
def test_each_change_is_explained_and_can_be_judged_again(change: ev.Event) -> None:
    machine = leader(with_snapshots(ready("t", A), Snapshot("p", SIZE, 1, 3)))
    step(machine, change, 0, LEASED)
    out = accept(machine, B)
    told = [effect for effect in out if isinstance(effect, ev.Explain) and effect.kind in ("snapshot", "unsnapshot")]
    for explain in told:
        assert replay(explain.inputs).outcome == explain.outcome


def test_time_passes_without_a_deadline_in_the_past() -> None:
    machine = leader()
    taken(machine)
    for now_ns in (SECOND, 2 * SECOND):
        step(machine, ev.TimePassed(), now_ns, Facts(lease_until_ns=1 << 60))
        due = machine.next_deadline_ns(Facts(lease_until_ns=1 << 60))
        assert due is None or due > now_ns


def test_a_late_request_to_drop_leaves_what_was_taken_again_since() -> None:
    machine = leader(with_snapshots(ready("s", A)))
    step(machine, ev.DropAsked(1, "s", created_ms=2), 0, LEASED)
    assert replies(accept(machine, B)) == [ev.Reply(1)]
    assert known(machine).snapshot("s") is not None
    step(machine, ev.DropAsked(2, "s", created_ms=1), 0, LEASED)
    assert replies(accept(machine, B)) == [ev.Reply(2)]
    assert known(machine).snapshots == ()


def test_a_snapshot_for_a_clone_does_not_keep_its_volume() -> None:
    machine = leader(with_snapshots(ready("-clone-x", A)))
    step(machine, ev.DeleteAsked(1), 0, LEASED)
    assert replies(accept(machine, B)) == [ev.Reply(1)]
    assert known(machine).deleted
    assert known(machine).snapshots == ()


def stamp_of(machine: Brain) -> Stamp:
    accepted = machine.local.state.slot
    assert accepted is not None
    return accepted.stamp


@pytest.mark.parametrize("there", [True, False], ids=["dropped", "was not there"])
def test_who_saw_the_record_before_a_fence_takes_nothing(there: bool) -> None:
    machine = leader(with_snapshots(ready("s", A), *([ready("t", A)] if there else [])))
    seen = stamp_of(machine)
    step(machine, ev.DropAsked(1, "t", created_ms=1, fence=True), 0, LEASED)
    assert replies(accept(machine, B)) == [ev.Reply(1)]
    assert known(machine).fence == seen
    assert [snapshot.name for snapshot in known(machine).snapshots] == ["s"], "another name's stays"
    for name in ("t", "u"):
        (reply,) = replies(step(machine, ev.TakeAsked(2, name, 1, since=seen), 0, LEASED))
        assert reply.code == "ABORTED"
    step(machine, ev.TakeAsked(3, "s", 1, since=seen), 0, LEASED)
    assert replies(accept(machine, B)) == [ev.Reply(3)], "what is there is there, whatever was seen"
    for request, since in ((4, stamp_of(machine)), (5, None)):
        assert not replies(step(machine, ev.TakeAsked(request, f"v-{request}", 1, since=since), 0, LEASED))
        accept(machine, B, C)
    assert known(machine).snapshot("v-4") and known(machine).snapshot("v-5")


def test_a_fence_of_an_earlier_leader_counts_below_every_record_since() -> None:
    machine = leader(replace(record(A, B, C), fence=Stamp(0, 0, 900)))
    assert not replies(step(machine, ev.TakeAsked(1, "s", 1, since=stamp_of(machine)), 0, LEASED))
    (reply,) = replies(step(machine, ev.TakeAsked(2, "t", 1, since=Stamp(0, 0, 900)), 0, LEASED)) or (None,)
    assert reply is None, "one change at a time"
    assert [answer.code for answer in replies(accept(machine, B, C))] == ["ABORTED"]


def test_a_record_without_a_fence_is_written_as_before_there_were_any() -> None:
    state = leader().local.state
    assert b"fence" not in state.encode()
    fenced = replace(record(A, B, C), fence=Stamp(0, 1, 7))
    assert state.slot is not None
    written = state.with_slot(replace(state.slot, record=fenced))
    assert HardState.decode(written.encode()) == written


def given(machine: Brain, member: Voter, seal: int = 7 << 40, name: str = "s") -> list[ev.Effect]:
    return step(machine, ev.SnapshotGiven(name, seal, member), 0, LEASED)


def told(effects: list[ev.Effect]) -> list[tuple[str, ...]]:
    return [effect.nodes for effect in effects if isinstance(effect, ev.SnapshotsTold)]


def test_who_was_given_a_snapshot_is_a_holder_by_a_committed_record() -> None:
    machine = leader(with_snapshots(ready("s", A), ready("t", A)))
    out = given(machine, C) + accept(machine, B, C)
    found = known(machine).snapshot("s")
    assert found is not None and known(machine).holders(found) == (A, C)
    other = known(machine).snapshot("t")
    assert other is not None and known(machine).holders(other) == (A,)
    (explained,) = [e for e in out if isinstance(e, ev.Explain) and "was given" in e.outcome]
    assert "2 of 3 copies" in explained.outcome
    assert replay(explained.inputs).outcome == explained.outcome


def test_what_was_given_of_another_seal_or_to_a_stranger_counts_for_nothing() -> None:
    """Dropped and taken again under its name, it is another snapshot."""
    machine = leader(with_snapshots(ready("s", A), Snapshot("p", SIZE, 1, 3)))
    before = known(machine)
    given(machine, C, seal=8 << 40)
    given(machine, Voter("d", "d" * 16))
    given(machine, Voter(C.node, "e" * 16))
    given(machine, A)
    given(machine, C, seal=0, name="p")
    given(machine, C, name="gone")
    assert known(machine) == before


def test_replication_hears_once_who_has_stored_that_a_snapshot_is_there() -> None:
    machine = brain(A, slot(with_snapshots(replace(ready("s", A), seal=6 << 40))))
    for voter in (B, C):
        step(machine, ev.PeerUp(voter.node), 0, LEASED)
    elect(machine, B, C)
    assert told(accept(machine, B)) == [("b",)]
    assert told(accept(machine, C)) == [("c",)]
    taken(machine, "t")
    out = sealed(machine, "t", A, B)
    assert told(out) == []
    assert told(accept(machine, B)) == [("b",)], "there is one more"


def test_a_snapshot_is_sealed_though_who_waits_asks_again_sooner_than_all_is_committed() -> None:
    """*There was always one more record to propose, and nobody was told to seal.*"""
    machine, out = leader(), list[ev.Effect]()
    lease_ns = machine.local.timing.lease_ns
    step(machine, ev.TakeAsked(1, "s", 1), 0, LEASED)
    for number in range(2, 8):
        step(machine, ev.TakeAsked(number, "s", 1), number * lease_ns // 2, LEASED)
        out += accept(machine, B, now_ns=number * lease_ns // 2)
    (order,) = orders(out)
    assert order.name == "s"
