"""What leaves a voter out need not be committed: that voter stands with the record before, of which others tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Brain, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.override import Answer, Overriding
from tests.support.voters import LEASE, A, B, C, W, brain, record, sent, slot, step

D, E, X = Voter("d", "d1"), Voter("e", "e1"), Voter("x", "x1")
BOTH = slot(record(A, B, C, D, E, in_sync=[A, B], primary=A), 4, 22)
"""Committed: three and more have it."""
ALONE = slot(replace(BOTH.record, in_sync=(A,)), 4, 23)
"""A proposed it, and B has stored it."""


def told(machine: Brain, by: Voter, older=BOTH) -> None:  # type: ignore[no-untyped-def]
    step(machine, ev.Received(ms.Refused("v", by, machine.me, 4, older)), LEASE)


def stand(machine: Brain) -> int:
    step(machine, ev.TimePassed(), 4 * LEASE)
    assert machine.role == "pre-voting"
    return machine.candidacy.asking_epoch


def test_s3_who_holds_an_older_record_tells_whom_it_names_and_who_enquires() -> None:
    c = brain(C, BOTH, epoch=4)
    answers = sent(step(c, ev.Received(ms.Enquire("v", B, C, 4, ALONE.stamp))))
    assert answers == [ms.Refused("v", C, B, 4, BOTH)]
    assert not sent(step(c, ev.Received(ms.Enquire("v", D, C, 4, ALONE.stamp)))), "D was behind before"


def test_s3_who_is_left_out_by_its_own_record_alone_is_elected_by_a_majority_besides_itself() -> None:
    """A, which lost writes, waited for B, clean and in sync by what the others held; and B never stood."""
    b = brain(B, ALONE, epoch=4)
    assert b.candidacy.may_not_stand() == "it is not in sync"
    told(b, C)
    asked = stand(b)
    for voter in (C, D):
        step(b, ev.Received(ms.PreVoteAnswer("v", voter, B, asked, True, 4, stamp=BOTH.stamp)), 4 * LEASE)
    assert b.role == "pre-voting", "with its own vote they would be three: A and B and E may have committed the other"
    step(b, ev.Received(ms.PreVoteAnswer("v", E, B, asked, True, 4, stamp=BOTH.stamp)), 4 * LEASE)
    assert b.role == "voting"
    for voter in (B, C, D):
        step(b, ev.Received(ms.VoteAnswer("v", voter, B, asked, True, asked)), 4 * LEASE)
    assert b.role == "voting"
    step(b, ev.Received(ms.VoteAnswer("v", E, B, asked, True, asked)), 4 * LEASE)
    assert b.role == "leader"
    assert b.state.slot is not None
    assert b.state.slot.stamp > ALONE.stamp
    assert b.state.slot.record == replace(BOTH.record, primary=B)


def test_s3_who_holds_the_newer_record_gives_it_no_vote() -> None:
    c = brain(C, ALONE, epoch=4)
    (answer,) = sent(step(c, ev.Received(ms.PreVote("v", B, C, 5, BOTH.stamp))))
    assert isinstance(answer, ms.PreVoteAnswer)
    assert not answer.granted
    assert answer.slot == ALONE


def test_s3_who_lost_power_does_not_stand_with_an_older_record() -> None:
    b = brain(B, ALONE, epoch=4, unclean=True)
    told(b, C)
    assert b.candidacy.may_not_stand() == "it is not in sync"


def test_s3_nor_who_knows_that_its_own_is_committed() -> None:
    b = brain(B, ALONE, epoch=4)
    step(b, ev.Received(ms.Committed("v", A, B, 4, ALONE.stamp)))
    told(b, C)
    assert b.candidacy.may_not_stand() == "it is not in sync"


@pytest.mark.parametrize(
    "older",
    [
        slot(replace(BOTH.record, in_sync=(A, C)), 4, 22),
        slot(record(A, B, C, in_sync=[A, B]), 4, 22),
    ],
    ids=["that leaves it out as well", "of other voters"],
)
def test_s3_nor_with_a_record(older) -> None:  # type: ignore[no-untyped-def]
    b = brain(B, ALONE, epoch=4)
    told(b, C, older)
    assert b.candidacy.may_not_stand() == "it is not in sync"


def test_s3_it_stands_with_the_newest_that_names_it() -> None:
    b = brain(B, ALONE, epoch=4)
    told(b, D, slot(BOTH.record, 3, 9))
    told(b, C)
    asked = stand(b)
    step(b, ev.Received(ms.PreVoteAnswer("v", C, B, asked, True, 4, stamp=BOTH.stamp)), 4 * LEASE)
    assert C in b.candidacy.answers


def test_s3_who_was_told_of_the_record_that_admits_it_stands_by_it_after_a_vote_for_another_one() -> None:
    """By its own record it may not stand: it waited for a leader, and the others, who had lost writes, for it."""
    before = slot(record(A, B, W, in_sync=[A], primary=A), 3, 7)
    admitted = slot(record(A, B, W, primary=A), 3, 8)
    b = brain(B, before, epoch=3)
    told(b, A, admitted)
    step(b, ev.Received(ms.Vote("v", A, B, 4, admitted.stamp)), LEASE)
    assert b.state.voted_for == A
    assert b.candidacy.election_at_ns is not None


def test_s3_a_candidacy_with_a_newer_record_is_not_broken_off_for_an_older_one() -> None:
    """A, which lost writes, was the first to answer, with what it alone had: B asked anew each time, for ever."""
    back, out_again = slot(BOTH.record, 4, 24), slot(ALONE.record, 4, 25)
    b = brain(B, ALONE, epoch=4)
    told(b, E)
    told(b, D, back)
    asked = stand(b)
    refusal = ms.PreVoteAnswer("v", A, B, asked, False, 4, "older", out_again, True, out_again.stamp, (A,))
    step(b, ev.Received(refusal), 4 * LEASE)
    told(b, E)
    assert b.role == "pre-voting"
    for voter in (C, D):
        step(b, ev.Received(ms.PreVoteAnswer("v", voter, B, asked, True, 4)), 4 * LEASE)
    assert b.role == "voting"


def test_s3_nor_with_one_older_than_any_that_it_knows_to_be_committed() -> None:
    b = brain(B, ALONE, epoch=4)
    step(b, ev.Received(ms.Committed("v", A, B, 4, ALONE.stamp)))
    step(b, ev.Received(ms.Propose("v", A, B, 4, slot(ALONE.record, 4, 24), ALONE.stamp)))
    told(b, C)
    assert b.candidacy.may_not_stand() == "it is not in sync"


def test_it_asks_again_later_than_whoever_its_own_record_names() -> None:
    """B and D had the same place, each in its own record, and asked at once, again and again: nobody won."""
    before = slot(record(A, B, C, D, E, in_sync=[A, B, D], primary=A), 4, 22)
    without_b = slot(replace(before.record, in_sync=(A, D)), 4, 23)
    b, d = brain(B, without_b, epoch=4), brain(D, without_b, epoch=4)
    told(b, C, before)
    stand(b)
    stand(d)
    assert (b.candidacy.next_deadline_ns() or 0) > (d.candidacy.next_deadline_ns() or 0)


def test_i4_an_override_is_refused_while_who_is_left_out_may_be_elected() -> None:
    """A is lost for good: B has the votes of C, D and E."""
    question = Overriding(
        me=C,
        stamp=BOTH.stamp,
        epoch=5000,
        voters=(A, B, C, D, E),
        in_sync=BOTH.record.in_sync,
        unclean=False,
        deleted=False,
        attach_epoch=0,
        failure="",
        leads=False,
        promised_ns=0,
        promised_to="",
        lost=("a",),
        above=0,
        accept_loss=True,
        answers=(
            Answer(B, ALONE.stamp, ALONE.record.in_sync, unclean=False),
            *(Answer(voter, BOTH.stamp, BOTH.record.in_sync, unclean=False) for voter in (D, E)),
        ),
        reason="gone",
    )
    assert question.objection() == "a majority answers, and one of them may lead: the volume elects by itself"


@pytest.mark.parametrize(
    ("voters", "needed"), [((A, B, W), None), ((A, B, C, D), 3), ((A, B, C, D, E), 4), ((A, B, C, D, E, W, X), 5)]
)
def test_s3_so_many_votes_that_who_is_left_is_no_majority(voters: tuple[Voter, ...], needed: int | None) -> None:
    """Of three it never wins: its own record is on its leader as well, so only one is left who may vote for it."""
    before = slot(record(*voters, in_sync=[A, B], primary=A), 4, 22)
    b = brain(B, slot(replace(before.record, in_sync=(A,)), 4, 23), epoch=4)
    told(b, voters[-1], before)
    assert bool(b.candidacy.may_not_stand()) == (needed is None)
    if needed is not None:
        asked = stand(b)
        for already, voter in enumerate(voters[2:], 1):
            assert (b.role == "voting") == (already >= needed)
            step(b, ev.Received(ms.PreVoteAnswer("v", voter, B, asked, True, 4, stamp=before.stamp)), 4 * LEASE)
        assert b.role == "voting"
