"""Moving the primary on purpose (P5): who may be named, what is said in which order, and what becomes of a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Brain, Facts, Stamp, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.move import Move
from services.replica.brain.record import Attachment
from tests.support.pure_cluster import PureCluster
from tests.support.voters import LEASE, TIMING, A, B, C, W, accept, brain, elect, record, sent, slot, step

ABC = slot(record(A, B, C))


def leader(*up: str, in_sync=None):  # type: ignore[no-untyped-def]
    """A leads {A,B,C} and has committed its first record."""
    machine = brain(A, slot(record(A, B, C, in_sync=in_sync)))
    for node in up or ("b", "c"):
        step(machine, ev.PeerUp(node))
    elect(machine, B)
    accept(machine, B, C)
    return machine


def named(to: str = "c", request: int = 7):  # type: ignore[no-untyped-def]
    """The leader and the effects of the step in which it names `to`."""
    machine = leader()
    step(machine, ev.MoveAsked(request, to), 1)
    return machine, step(machine, ev.Settled(1), 2)


def test_it_settles_first_then_names_then_stops_and_only_then_withdraws_its_claim() -> None:
    machine = leader()
    batch = machine.step(ev.MoveAsked(7, "c"), 1, Facts())
    assert batch.now == (ev.Settle(),)
    assert machine.role == "leader"
    assert sent(step(machine, ev.Settled(99), 2)) == [], "of another epoch"
    batch = machine.step(ev.Settled(1), 2, Facts())
    held = machine.state.slot
    assert held is not None
    assert batch.now == (
        ev.Send(ms.HandOver("v", A, C, 1, held)),
        ev.Send(ms.Released("v", A, B, 1, C)),
        ev.StopLeading("it named c its successor", "c"),
    )
    assert (machine.role, machine.leader) == ("follower", C)


def test_whoever_asked_is_answered_when_the_successor_leads() -> None:
    machine, _ = named()
    led = slot(record(A, B, C, primary=C), 2, 3)
    out = step(machine, ev.Received(ms.Propose("v", C, A, 2, led)), 3)
    assert ev.Reply(7) in out
    assert not machine.handover.under_way


def test_another_leader_than_the_one_named_is_told() -> None:
    machine, _ = named()
    led = slot(record(A, B, C, primary=B), 2, 3)
    out = step(machine, ev.Received(ms.Propose("v", B, A, 2, led)), 3)
    assert ev.Reply(7, "ABORTED", "c did not take over: b leads") in out


def test_if_the_successor_fails_the_old_primary_stands_in_a_new_epoch() -> None:
    machine, _ = named()
    due = machine.next_deadline_ns(Facts())
    assert due == 2 + LEASE
    asked = sent(step(machine, ev.TimePassed(), due))
    assert {message.epoch for message in asked if isinstance(message, ms.PreVote)} == {2}
    for message in (ms.PreVoteAnswer("v", B, A, 2, True, 1), ms.VoteAnswer("v", B, A, 2, True, 2)):
        out = step(machine, ev.Received(message), due)
    assert machine.role == "leader" and machine.epoch == 2
    assert ev.Reply(7, "ABORTED", "c did not take over: a leads again") in out


def test_the_named_one_stands_at_once_though_its_own_promise_to_the_leader_is_live() -> None:
    machine = brain(C, slot(record(A, B, C, primary=A), 1, 2), epoch=1)
    step(machine, ev.PeerUp("a"))
    bound = Facts(promised_until_ns=LEASE, promised_to="a", other_promise_until_ns=0)
    batch = machine.step(ev.Received(ms.HandOver("v", A, C, 1, slot(record(A, B, C, primary=A), 1, 3))), 5, bound)
    assert batch.now == (ev.LiftPromise("a", 1),)
    assert batch.durable is not None and batch.durable.slot is not None
    assert batch.durable.slot.stamp == Stamp(0, 1, 3), "the record that came along is stored"
    asked = [effect.message for effect in batch.after if isinstance(effect, ev.Send)]
    assert asked == [ms.PreVote("v", C, to, 2, Stamp(0, 1, 3), False, 1) for to in (A, B)]
    out = step(machine, ev.Received(ms.PreVoteAnswer("v", B, C, 2, True, 1)), 6)
    assert [message.released for message in sent(out) if isinstance(message, ms.Vote)] == [1, 1]


def test_a_promise_to_somebody_else_still_binds_the_one_who_is_named() -> None:
    machine = brain(C, slot(record(A, B, C, primary=A), 1, 2), epoch=1)
    lingering = Facts(promised_until_ns=LEASE, promised_to="a", other_promise_until_ns=LEASE)
    out = step(machine, ev.Received(ms.HandOver("v", A, C, 1, slot(record(A, B, C, primary=A), 1, 2))), 5, lingering)
    assert sent(out) == []
    assert machine.role == "follower"


@pytest.mark.parametrize(
    ("sender", "epoch"), [(B, 1), (A, 2), (A, 0)], ids=["not the leader", "a later epoch", "an earlier epoch"]
)
def test_a_name_from_somebody_else_or_of_another_epoch_says_nothing(sender, epoch) -> None:  # type: ignore[no-untyped-def]
    machine = brain(C, slot(record(A, B, C, primary=A), 1, 2), epoch=1)
    held = slot(record(A, B, C, primary=A), 1, 2)
    assert step(machine, ev.Received(ms.HandOver("v", sender, C, epoch, held)), 5) == []
    assert step(machine, ev.Received(ms.Released("v", sender, C, epoch, B)), 5) == []


def test_a_vote_for_the_successor_lifts_the_promise_of_that_epoch_before_the_epoch_rises() -> None:
    """Raised first, the promise would go on to bind this voter, as one to a leader that was outvoted does."""
    machine = brain(B, slot(record(A, B, C, primary=A), 1, 2), epoch=1)
    bound = Facts(promised_until_ns=LEASE, promised_to="a", other_promise_until_ns=0)
    plain = ms.Vote("v", C, B, 2, Stamp(0, 1, 2))
    (refused,) = sent(step(machine, ev.Received(plain), 5, bound))
    assert isinstance(refused, ms.VoteAnswer) and not refused.granted
    batch = machine.step(ev.Received(ms.Vote("v", C, B, 2, Stamp(0, 1, 2), False, 1)), 5, bound)
    assert batch.now == (ev.LiftPromise("a", 1), ev.RaiseEpoch(2))
    assert batch.durable is not None and batch.durable.voted_for == C


def test_the_other_voters_wait_for_the_one_who_is_named() -> None:
    machine = brain(B, slot(record(A, B, C, primary=A), 1, 2), epoch=1)
    step(machine, ev.PeerUp("a"))
    out = step(machine, ev.Received(ms.Released("v", A, B, 1, C)), 5)
    assert out == [ev.LiftPromise("a", 1)]
    step(machine, ev.ClaimLost("a"), 6)
    due = machine.next_deadline_ns(Facts())
    assert due is not None and due >= 5 + LEASE
    step(machine, ev.PeerDown("c"), 7)
    soon = machine.next_deadline_ns(Facts())
    assert soon is not None and soon < due, "the one who is named has died"


def test_what_does_not_settle_in_time_goes_on() -> None:
    machine = leader()
    step(machine, ev.MoveAsked(7, "c"), 1)
    due = machine.next_deadline_ns(Facts())
    assert due == 1 + TIMING.settle_ns
    out = step(machine, ev.TimePassed(), due)
    assert ev.GoOn() in out
    assert ev.Reply(7, "UNAVAILABLE", "what was under way has not ended within 0.50 s") in out
    assert machine.role == "leader" and not machine.handover.under_way


def test_a_successor_that_is_lost_meanwhile_ends_the_move() -> None:
    machine = leader()
    step(machine, ev.MoveAsked(7, "c"), 1)
    out = step(machine, ev.PeerDown("c"), 2)
    assert ev.GoOn() in out
    assert ev.Reply(7, "UNAVAILABLE", "node c was lost before it could take over") in out
    assert machine.role == "leader"


def test_a_record_on_its_way_is_committed_first() -> None:
    machine = leader()
    step(machine, ev.MoveAsked(7, "c"), 1)
    step(machine, ev.AttachAsked(8, "n1"), 2)
    assert not [message for message in sent(step(machine, ev.Settled(1), 3)) if isinstance(message, ms.HandOver)]
    out = accept(machine, B)
    assert ev.Reply(8) in out
    (handed,) = [message for message in sent(out) if isinstance(message, ms.HandOver)]
    assert handed.slot.record.attachment is not None


@pytest.mark.parametrize(
    ("wanted", "code", "reason"),
    [
        ("n9", "NOT_FOUND", "node n9 holds no copy of volume volume"),
        ("w", "FAILED_PRECONDITION", "node w is a witness"),
        ("c", "FAILED_PRECONDITION", "the copy on node c is not in sync"),
        ("b", "FAILED_PRECONDITION", "node b can't be reached from node a"),
        ("", "FAILED_PRECONDITION", "no other copy is in sync and can be reached"),
    ],
)
def test_every_reason_to_stay_is_said(wanted: str, code: str, reason: str) -> None:
    rec = record(A, B, C, W, in_sync=[A, B])
    move = Move(A, rec, "asked", wanted, ("c", "w"), True)
    assert move.successor() is None
    found, told = move.refusal()
    assert found == code and reason in told
    assert move.judge().kind == "refuse"


def test_who_leads_already_is_no_move() -> None:
    machine = leader()
    assert step(machine, ev.MoveAsked(7, "a"), 1) == [ev.Reply(7)]
    assert machine.role == "leader"


def test_a_voter_that_does_not_lead_and_a_second_wish_are_refused() -> None:
    follower = brain(B, ABC)
    assert step(follower, ev.MoveAsked(7), 1) == [ev.Reply(7, "NOT_PRIMARY", "this voter is not the primary")]
    machine = leader()
    step(machine, ev.MoveAsked(7, "c"), 1)
    out = step(machine, ev.MoveAsked(8, "b"), 2)
    assert out == [ev.Reply(8, "ABORTED", "the primary is about to move to c")]


def test_s2_a_primary_whose_disk_fails_names_somebody_at_once_and_goes_on_voting() -> None:
    machine = leader()
    out = step(machine, ev.StoreChanged(True, "no space left on device"), 1)
    assert [message.successor for message in sent(out) if isinstance(message, ms.Released)] == [B]
    kinds = [effect.kind for effect in out if isinstance(effect, ev.Explain)]
    assert kinds == ["fail", "move", "step-down"]
    assert machine.next_deadline_ns(Facts()) is not None
    answer = sent(step(machine, ev.Received(ms.Vote("v", B, A, 2, Stamp(0, 1, 2), False, 1)), 2))[0]
    assert isinstance(answer, ms.VoteAnswer) and answer.granted
    step(machine, ev.TimePassed(), 10 * LEASE)
    assert machine.role == "follower", "its copy counts for nothing: it never stands"


def test_a_voter_that_can_not_store_a_vote_says_so_and_nothing_more() -> None:
    machine = leader()
    out = step(machine, ev.StoreChanged(True, "hard state: I/O error", votes=False), 1)
    assert not [message for message in sent(out) if isinstance(message, ms.HandOver)]
    assert any(isinstance(effect, ev.StopLeading) for effect in out)
    (told,) = [effect for effect in out if isinstance(effect, ev.Explain) and effect.kind == "fail"]
    assert "keeps silent" in told.outcome
    assert step(machine, ev.Received(ms.Vote("v", B, A, 2, Stamp(0, 1, 2))), 2) == []


def test_a_hand_over_takes_no_lease() -> None:
    made = PureCluster((A, B, C))
    made.found()
    assert made.primary() == "a"
    made.ask("a", ev.MoveAsked(7, "c"))
    took_ms = made.until(lambda: made.primary() == "c")
    assert took_ms <= 10, "in a world where disks and links take no time"
    assert made.replies[7] == ("", "")
    made.run(2000)
    assert made.primary() == "c"
    assert set(made.in_sync("c")) == {"a", "b", "c"}, "nobody was shrunk out"
    assert made.kinds().count("stand") == 2, "the founding, and the one who was named"


def test_an_ending_process_hands_all_its_volumes_over_first() -> None:
    made = PureCluster((A, B, C), volumes=("v", "u"))
    made.found()
    node = made.nodes["a"]
    node.hand_over(made.now_ns)
    made.until(lambda: not node.handing_over)
    assert "a" not in (made.primary("v"), made.primary("u"))
    node.resign(made.now_ns)
    made.run(50)
    assert made.primary("v") and made.primary("u")


def test_with_one_copy_there_is_nobody_to_hand_over_to() -> None:
    made = PureCluster((A,))
    made.found()
    made.nodes["a"].hand_over(made.now_ns)
    made.run(20)
    assert not made.nodes["a"].handing_over
    assert made.primary() == "a", "it serves until it resigns"


# ---- the frontend reaches another one -------------------------------------------------------------------

ATTACHED = replace(record(A, B, C), attachment=Attachment("d", 4), attach_epoch=4)


def attached_leader(*, at_ns: int = 0) -> Brain:
    machine = brain(A, slot(ATTACHED))
    for node in ("b", "c"):
        step(machine, ev.PeerUp(node))
    elect(machine, B, now_ns=at_ns)
    accept(machine, B, C, now_ns=at_ns)
    return machine


def test_a_leader_that_the_frontend_has_no_link_with_hands_over_to_whom_it_asks() -> None:
    """The link between the application's node and the primary is cut, and no other: the primary keeps its majority, is
    heard over the bus, and served nobody for as long as that lasted."""
    machine = attached_leader()
    by_bus = Facts(attached_heard_ns=2 * LEASE, attached_linked_ns=LEASE, lease_until_ns=9 * LEASE)
    sought = ev.Received(ms.Offer("v", C, A, 1, sought=True))
    assert sent(step(machine, sought, 2 * LEASE - 1, by_bus)) == [], "a blip"
    assert sent(step(machine, ev.Received(ms.Offer("v", C, A, 1)), 2 * LEASE, by_bus)) == [], "it has a majority"
    out = step(machine, sought, 2 * LEASE, by_bus)
    assert [type(message) for message in sent(out)] == [ms.HandOver, ms.Released]
    assert machine.leader == C
    (told,) = (effect for effect in out if isinstance(effect, ev.Explain) and effect.kind == "move")
    assert told.outcome == "c shall lead: d, which uses the volume, reaches it and has no link with a"


def test_a_new_leader_gives_the_frontend_a_lease_to_find_it() -> None:
    machine = attached_leader(at_ns=5 * LEASE)
    offer = ev.Received(ms.Offer("v", C, A, 1, sought=True))
    facts = Facts(lease_until_ns=9 * LEASE)
    assert sent(step(machine, offer, 6 * LEASE - 1, facts)) == []
    assert [type(message) for message in sent(step(machine, offer, 6 * LEASE, facts))] == [ms.HandOver, ms.Released]


def test_who_refuses_the_attached_frontend_a_session_offers_itself_once_a_lease() -> None:
    def follower(in_sync: tuple[Voter, ...] = (A, B, C), **more: bool) -> Brain:
        machine = brain(C, slot(replace(ATTACHED, in_sync=in_sync), 1), epoch=1, **more)
        step(machine, ev.PeerUp("a"))
        led = slot(replace(ATTACHED, in_sync=in_sync, primary=A), 1, 2)
        step(machine, ev.Received(ms.Propose("v", A, C, 1, led)), LEASE)
        return machine

    asked = ev.SessionRefused("d", 4)
    machine = follower()
    assert sent(step(machine, asked, LEASE)) == [ms.Offer("v", C, A, 1, sought=True)]
    assert sent(step(machine, asked, 2 * LEASE - 1)) == []
    assert sent(step(machine, asked, 2 * LEASE)) == [ms.Offer("v", C, A, 1, sought=True)]
    assert sent(step(follower(), ev.SessionRefused("d", 3), LEASE)) == [], "an older attachment's frontend"
    assert sent(step(follower(), ev.SessionRefused("a", 4), LEASE)) == [], "not attached"
    assert sent(step(follower(in_sync=(A, B)), asked, LEASE)) == [], "it could not lead"
    assert sent(step(follower(unclean=True), asked, LEASE)) == [], "it may have lost writes"
