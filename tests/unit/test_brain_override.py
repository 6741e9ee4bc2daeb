"""The operator's override (I4): when it is refused, what it begins, and how the old generation ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica import permits
from services.replica.brain import Brain, Facts, Stamp, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.override import ATTACH_EPOCHS_APART, EPOCHS_APART, Answer, Overriding
from services.replica.brain.record import ATTACH_EPOCH_MAX, EPOCH_MAX, GENERATION_MAX, Attachment, Snapshot
from tests.support.voters import LEASE, A, B, C, W, accept, brain, elect, hard, record, sent, slot, step

ABC = slot(record(A, B, C), 3, 7)
D = Voter("d", "d1")
LOST = ev.OverrideAsked(9, ("b", "c"), "a fire")
QUESTION = Overriding(
    me=A, stamp=Stamp(0, 3, 7), epoch=4099, voters=(A, B, C), in_sync=(A, B, C), unclean=False, deleted=False,
    attach_epoch=0, failure="", leads=False, promised_ns=0, promised_to="", lost=("b", "c"), above=0, accept_loss=False,
    answers=(), reason="a fire",
)  # fmt: skip


def answers(voter: Voter, **more: object) -> Answer:
    return replace(Answer(voter, Stamp(0, 3, 7), (A, B, C), False), **more)  # type: ignore[arg-type]


def overridden(
    me: Voter = A, asked: ev.OverrideAsked = LOST, *, unclean: bool = False
) -> tuple[Brain, list[ev.Effect]]:
    """The effects of the moment in which the word is taken, or not."""
    machine = brain(me, ABC, epoch=3, unclean=unclean)
    assert [type(message) for message in sent(step(machine, asked))] == [ms.PreVote] * 2
    return machine, step(machine, ev.TimePassed(), 2 * LEASE)


def replies(effects: list[ev.Effect]) -> list[ev.Reply]:
    return [effect for effect in effects if isinstance(effect, ev.Reply)]


@pytest.mark.parametrize(
    ("question", "objection"),
    [
        (replace(QUESTION, leads=True), "leads the volume"),
        (replace(QUESTION, promised_ns=1, promised_to="b"), "b leads the volume"),
        (replace(QUESTION, me=C, voters=(A, B)), "holds no copy with a vote"),
        (replace(QUESTION, me=W, voters=(A, B, W)), "holds no copy with a vote"),
        (replace(QUESTION, failure="EIO"), "the disk of a failed"),
        (replace(QUESTION, lost=("b",)), "silent, and not named as lost: c"),
        (replace(QUESTION, lost=("b", "c", "d")), "not among the other voters: d"),
        (replace(QUESTION, lost=("a", "b", "c")), "not among the other voters: a"),
        (replace(QUESTION, answers=(answers(B),)), "named as lost, and it answers: b"),
        (replace(QUESTION, lost=("c",), answers=(answers(B),)), "a majority answers"),
        (replace(QUESTION, lost=("c",), answers=(answers(B, unclean=True),)), "a majority answers"),
        (replace(QUESTION, in_sync=(B,)), "a is behind"),
        (replace(QUESTION, unclean=True), "not flushed"),
        (replace(QUESTION, deleted=True), "is being deleted"),
        (replace(QUESTION, epoch=EPOCH_MAX - 1), "no epochs left"),
        (replace(QUESTION, attach_epoch=ATTACH_EPOCH_MAX - 5), "no epochs left"),
        (replace(QUESTION, above=GENERATION_MAX), "no generations left"),
    ],
)
def test_it_is_refused(question: Overriding, objection: str) -> None:
    verdict = question.judge()
    assert verdict.kind == "refuse"
    assert objection in verdict.outcome


def test_two_of_whom_neither_may_lead_elect_nobody() -> None:
    """S3: A lost power and let go of B in a record that it stored alone, as far as B knows; B is clean. W alone could
    tell, and is lost for good."""
    beside = answers(A, stamp=Stamp(0, 3, 9), in_sync=(A,), unclean=True)
    left = replace(QUESTION, me=B, voters=(A, B, W), in_sync=(A, B), lost=("w",), answers=(beside,))
    assert "b is behind" in left.objection()
    assert replace(left, accept_loss=True).judge().kind == "override"
    assert "a majority answers" in replace(left, answers=(replace(beside, unclean=False),)).objection()
    known = replace(left, unclean=True, answers=(replace(beside, stamp=Stamp(0, 3, 8)),))
    assert "a majority answers" in known.objection(), "the record before was committed, and all that it names are here"


def test_a_majority_without_the_clean_copy_can_not_elect_and_an_operator_may() -> None:
    """S3: A and B lost power, C with everything that was acknowledged never comes back."""
    left = replace(QUESTION, unclean=True, lost=("c",), answers=(answers(B, unclean=True),), in_sync=(A, B, C))
    assert "not flushed" in left.objection()
    assert replace(left, accept_loss=True).judge().kind == "override"


def test_what_is_known_to_be_lost_has_to_be_said() -> None:
    assert replace(QUESTION, in_sync=(B,), accept_loss=True).judge().kind == "override"
    newer = answers(W, stamp=Stamp(0, 4, 9), in_sync=(B,))
    behind = replace(QUESTION, voters=(A, B, C, W), answers=(newer,))
    assert "a is behind" in behind.objection(), "a witness knows the record that took it out"


def test_it_goes_on_alone_in_a_new_generation_and_nobody_is_attached() -> None:
    machine, effects = overridden()
    assert replies(effects) == [ev.Reply(9)]
    assert machine.role == "leader"
    assert machine.state.slot is not None
    stamp, left = machine.state.slot.stamp, machine.state.slot.record
    assert stamp.generation == 1
    assert stamp.epoch > 4000, "above all that the others can have used"
    assert (left.voters, left.in_sync, left.joining, left.attachment) == ((A,), (A,), (), None)
    assert left.attach_epoch == ATTACH_EPOCHS_APART
    assert left.replicas == 2, "two copies are to be made again"
    assert any(isinstance(effect, ev.Lead) for effect in effects)
    told = {message.target for message in sent(effects) if isinstance(message, ms.Excluded)}
    assert told == {B, C}


def test_an_unclean_copy_leads_alone() -> None:
    machine, effects = overridden(asked=replace(LOST, accept_loss=True), unclean=True)
    assert replies(effects) == [ev.Reply(9)]
    assert machine.role == "leader"


def test_snapshots_keep_the_holder_that_is_left() -> None:
    both = Snapshot("s", 1 << 20, 0, 1, "ready", 5, "0" * 16, (A.incarnation, B.incarnation))
    attached = replace(ABC.record, snapshots=(both,), attachment=Attachment("n9", 4), attach_epoch=4)
    machine = brain(A, replace(ABC, record=attached), epoch=3)
    step(machine, LOST)
    step(machine, ev.TimePassed(), 2 * LEASE)
    assert machine.record is not None
    assert machine.record.snapshots[0].holders == (A.incarnation,)
    assert machine.record.attach_epoch == 4 + ATTACH_EPOCHS_APART


def test_a_voter_that_answers_after_all_keeps_its_vote() -> None:
    machine = brain(A, ABC, epoch=3)
    step(machine, LOST)
    answer = ms.PreVoteAnswer("v", B, A, 4, False, 3, "no", None, False, ABC.stamp, ABC.record.in_sync)
    step(machine, ev.Received(answer), LEASE)
    [reply] = replies(step(machine, ev.TimePassed(), 2 * LEASE))
    assert reply.code == "FAILED_PRECONDITION"
    assert machine.local.generation == 0


def test_one_at_a_time_and_not_before_its_own_silence_is_over() -> None:
    machine = brain(A, ABC, epoch=3, fresh=False)
    step(machine, LOST, 0)
    [reply] = replies(step(machine, replace(LOST, request=10), 1))
    assert (reply.request, reply.code) == (10, "ABORTED")
    leads = brain(A, ABC, epoch=3)
    elect(leads, B)
    accept(leads, B)
    out = step(leads, LOST, 0, Facts(lease_until_ns=LEASE))
    assert sent(out) == [], "who leads asks nobody"
    assert "nothing is lost" in replies(out)[0].error


def test_a_leader_that_nobody_follows_goes_on_alone() -> None:
    """The others' nodes are there, and their directories gone: nothing makes it resign."""
    machine = brain(A, ABC, epoch=3)
    for voter in (B, C):
        step(machine, ev.PeerUp(voter.node))
    elect(machine, B)
    accept(machine, B)
    step(machine, LOST, 5 * LEASE)
    out = step(machine, ev.TimePassed(), 7 * LEASE)
    assert replies(out) == [ev.Reply(9)]
    assert any(isinstance(effect, ev.StopLeading) for effect in out)
    assert (machine.role, machine.local.generation) == ("leader", 1)


def test_of_the_old_generation_nothing_is_heard_and_who_speaks_of_it_is_told() -> None:
    machine, _ = overridden()
    before = machine.state
    for message in (
        ms.Vote("v", B, A, 9000, Stamp(0, 8999, 99)),
        ms.Propose("v", B, A, 9000, slot(record(A, B, C, primary=B), 9000, 100)),
        ms.Refused("v", B, A, 9000, None),
        ms.Enquire("v", B, A, 3, ABC.stamp),
    ):
        [told] = sent(step(machine, ev.Received(message), 3 * LEASE))
        assert isinstance(told, ms.Excluded)
        assert (told.slot.stamp.generation, told.slot.record.voters) == (1, (A,))
        assert b'"generation":1,"volume"' not in ms.encode(told), "a version from before generations believes it"
    assert (machine.state, machine.role) == (before, "leader")


def test_a_stranger_is_heard_only_if_it_speaks_of_an_older_generation() -> None:
    me, other = Voter("a", "a" * 16), Voter("b", "b" * 16)
    state = hard(me, replace(slot(record(me)), stamp=Stamp(1, 5, 9)), 5)
    vote = ms.Vote("v", other, me, 9000, Stamp(0, 8999, 99))
    assert permits.brain(state, vote) == ""
    assert permits.brain(state, replace(vote, generation=1)) == permits.STRANGER
    assert permits.brain(state, replace(vote, target=replace(me, incarnation="c" * 16))) == permits.STRANGER


@pytest.mark.parametrize("leads", [False, True])
def test_a_voter_of_the_old_generation_leaves_even_if_it_leads(leads: bool) -> None:
    machine = brain(B, ABC, epoch=3)
    if leads:
        machine.candidacy.election_at_ns = 0
        elect(machine, C)
        accept(machine, C)
    over, _ = overridden()
    assert over.state.slot is not None
    told = ms.Excluded("v", A, B, over.epoch, over.state.slot)
    out = step(machine, ev.Received(told), LEASE)
    assert any(isinstance(effect, ev.ForgetVolume) for effect in out)
    assert any(isinstance(effect, ev.StopLeading) for effect in out) == leads
    assert machine.silent


def test_messages_of_the_first_generation_are_what_they_were() -> None:
    """An older version reads them; one of a later generation it answers with NOT_UNDERSTOOD."""
    message = ms.Enquire("v" * 32, B, A, 3, ABC.stamp)
    assert b'"generation"' not in ms.encode(message).split(b'"stamp"')[0]
    later = replace(message, generation=2)
    assert ms.decode(ms.encode(later)) == later
    with pytest.raises(ms.BadMessage):
        ms.decode(ms.encode(replace(message, generation=-1)))


def test_an_epoch_that_somebody_only_told_can_not_make_the_last_copy_unreadable() -> None:
    machine = brain(A, ABC, epoch=3)
    step(machine, ev.Received(ms.Refused("v", B, A, EPOCH_MAX)))
    step(machine, LOST)
    step(machine, ev.TimePassed(), 2 * LEASE)
    assert machine.role == "leader"
    assert machine.epoch <= 3 + 2 * EPOCHS_APART + 1
    assert hard(A, ABC).decode(machine.state.encode()) == machine.state


def test_who_a_newer_record_names_is_asked_and_has_to_be_named() -> None:
    """W knows that D has replaced C: D may have everything, and serve."""
    machine = brain(A, slot(record(A, B, W), 3, 7), epoch=3)
    step(machine, replace(LOST, lost=("b",), accept_loss=True))
    newer = slot(record(A, B, D, W, in_sync=[B, D]), 4, 9)
    answer = ms.PreVoteAnswer("v", W, A, 4, False, 4, "older", newer, False, newer.stamp, (B, D))
    assert [message.target for message in sent(step(machine, ev.Received(answer)))] == [D]
    assert {m.target for m in sent(step(machine, ev.TimePassed(), LEASE))} >= {B, D}, "a lost frame is no silence"
    [reply] = replies(step(machine, ev.TimePassed(), 2 * LEASE))
    assert "silent, and not named as lost: d" in reply.error


def test_it_is_above_what_began_elsewhere() -> None:
    machine, _ = overridden(asked=replace(LOST, above=4))
    assert machine.local.generation == 5


def test_all_that_is_said_in_a_generation_names_it() -> None:
    """A hand-over that did not was heard by nobody, and every orderly move ended in an election."""
    record_, stamp = record(A, B, C), Stamp(2, 5, 9)
    machine = brain(A, replace(slot(record_), stamp=stamp), epoch=5)
    for voter in (B, C):
        step(machine, ev.PeerUp(voter.node))
    step(machine, ev.TimePassed())
    for kind in (ms.PreVoteAnswer, ms.VoteAnswer):
        step(machine, ev.Received(kind("v", B, A, 6, True, 6, generation=2)))
    assert machine.role == "leader"
    assert machine.proposal is not None
    accepted = ms.Accepted("v", B, A, machine.epoch, machine.proposal.slot.stamp, generation=2)
    said = sent(step(machine, ev.Received(accepted)))
    said += sent(step(machine, ev.MoveAsked(7, "b")))
    said += sent(step(machine, ev.Settled(machine.epoch)))
    assert {type(message) for message in said} >= {ms.Committed, ms.HandOver, ms.Released}
    assert {message.generation for message in said} == {2}


def test_it_is_durable_before_the_answer_leaves() -> None:
    machine = brain(A, ABC, epoch=3)
    machine.step(LOST, 0, Facts())
    batch = machine.step(ev.TimePassed(), 2 * LEASE, Facts())
    assert batch.durable is not None and batch.durable.slot is not None
    assert batch.durable.slot.stamp.generation == 1
    assert ev.Reply(9) in batch.after
    assert ev.Reply(9) not in batch.now
    assert hard(A, ABC).decode(batch.durable.encode()) == batch.durable
