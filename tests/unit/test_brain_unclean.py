"""After a power loss: a clean voter with an older record, and two unclean ones, each with a newer one (S3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Brain, Stamp, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.election import Adoption
from services.replica.brain.unclean import Word, may_win
from tests.support.voters import LEASE, TIMING, A, B, C, W, brain, hard, record, sent, slot, step

BEFORE = slot(record(A, B, C, in_sync=[C, A], primary=A), 4, 12)
ALONE = slot(record(A, B, C, in_sync=[A], primary=A), 5, 15)
"""A led by it, and B has stored it."""
AGAIN = slot(ALONE.record, 6, 16)
"""Elected once more, A stored it alone."""
ELSEWHERE = (Voter("d", "d1"), Voter("e", "e1"))


def stand(machine: Brain) -> int:
    step(machine, ev.TimePassed(), LEASE)
    assert machine.role == "pre-voting"
    return machine.candidacy.asking_epoch


def test_s3_a_clean_voter_follows_itself_out_by_a_record_that_its_leader_must_have_stored_as_well() -> None:
    """No two of the three hold the same any more, though two did: C waited for A, and A for C to be unclean."""
    c = brain(C, BEFORE, epoch=6)
    asked = stand(c)
    own_word = ms.PreVoteAnswer("v", A, C, asked, False, 6, "older", AGAIN, True, AGAIN.stamp, (A,))
    step(c, ev.Received(own_word), LEASE)
    assert c.state.slot == BEFORE, "that record may be on A alone"
    step(c, ev.Received(ms.PreVoteAnswer("v", B, C, asked, False, 6, "older", ALONE, True, ALONE.stamp, (A,))), LEASE)
    assert c.state.slot == ALONE and c.candidacy.election_at_ns is None

    a = brain(A, AGAIN, epoch=6, unclean=True)
    asked = stand(a)
    for voter in (B, C):
        answer = ms.PreVoteAnswer("v", voter, A, asked, True, 6, "", None, voter == B, ALONE.stamp, (A,))
        step(a, ev.Received(answer), LEASE)
    assert a.role == "voting"


FIVE = replace(record(A, B, C, *ELSEWHERE), in_sync=(A,), primary=A)


@pytest.mark.parametrize(
    ("told", "tellers", "stored", "why"),
    [
        (ALONE.record, (A,), False, "its leader may be the only one that has it"),
        (ALONE.record, (B,), True, "and its leader has stored it first"),
        (ALONE.record, (A, B), True, "one after the other"),
        (replace(ALONE.record, primary=None), (B,), False, "who led it nobody knows"),
        (replace(ALONE.record, primary=None), (B, A), True, "two of three have it"),
        (FIVE, (B,), False, "two are no majority of five"),
        (FIVE, (B, C), True, "three are"),
        (record(A, C, W, in_sync=[A], primary=A), (W,), True, "a witness has stored it as well"),
        (replace(ALONE.record, deleted=True), (A,), True, "of a tombstone nobody loses data"),
    ],
)
def test_s3_a_record_that_was_told_is_stored_when_a_majority_has_it(told, tellers, stored, why) -> None:  # type: ignore[no-untyped-def]
    """C is not named by it: it follows itself out, or takes no notice."""
    adoption = Adoption(C, BEFORE.stamp, slot(told, 5, 15), tellers)
    assert adoption.stored is stored, why
    assert bool(adoption.judge().kind) is stored


def test_s3_who_is_named_by_a_record_that_was_told_stands_with_it() -> None:
    told = Adoption(C, BEFORE.stamp, slot(record(A, B, C, primary=A), 5, 15), (A,))
    assert not told.stored
    assert told.judge().outcome == "stands with version 15 of epoch 5, of which a told"


def test_a3_a_candidate_takes_the_record_that_it_is_handed_by_whom_it_does_not_ask() -> None:
    """A and B lose power. A led, and let go of C in a record that nobody else has; the one before made B a voter, and C
    has not stored it: of the two voters that it knew it asked A for ever, and took nothing from B."""
    without_b = slot(record(A, C, primary=A), 4, 10)
    with_b = slot(record(A, C, B, primary=A), 4, 11)
    c = brain(C, without_b, epoch=4)
    stand(c)
    step(c, ev.Received(ms.Refused("v", B, C, 4, with_b)), LEASE)
    assert c.state.slot == with_b
    due_ns = c.candidacy.election_at_ns
    assert due_ns is not None
    asked = sent(step(c, ev.TimePassed(), due_ns))
    assert {message.target for message in asked if isinstance(message, ms.PreVote)} == {A, B}


# ---- a record that its leader told of while it was clean ----------------------------------------------------------

SHARED = slot(record(A, B, C, in_sync=[A, B], primary=A), 1, 5)
LET_GO = slot(record(A, B, C, in_sync=[A], primary=A), 1, 6)
"""A stored it alone, and was killed."""


def test_s3_a_voter_takes_no_smaller_set_from_its_leader_s_own_word() -> None:
    """C is behind and asks whoever is there for a newer record. A answers, clean, and loses power; C hears of it then.
    Two of three held it, which C had never stored as an answer to a leader, and A led beside B, clean and in sync."""
    c = brain(C, SHARED, epoch=1)
    step(c, ev.Received(ms.Refused("v", A, C, 1, LET_GO)))
    assert c.state.slot == SHARED

    a = brain(A, LET_GO, epoch=1, unclean=True)
    asked = stand(a)
    question = ms.PreVote("v", A, C, asked, LET_GO.stamp, unclean=True)
    (answer,) = (effect.message for effect in step(c, ev.Received(question), LEASE) if isinstance(effect, ev.Send))
    assert isinstance(answer, ms.PreVoteAnswer) and answer.granted
    step(a, ev.Received(answer), LEASE)
    assert a.role == "pre-voting", "B may be clean, and in sync by what C holds"


def test_who_told_of_a_smaller_set_of_its_own_leads_by_it_while_it_is_clean() -> None:
    a, c = brain(A, LET_GO, epoch=1), brain(C, SHARED, epoch=1)
    step(c, ev.Received(ms.Refused("v", A, C, 1, LET_GO)))
    asked = stand(a)
    for question in (ms.PreVote("v", A, C, asked, LET_GO.stamp), ms.Vote("v", A, C, asked, LET_GO.stamp)):
        (answer,) = (effect.message for effect in step(c, ev.Received(question), LEASE) if isinstance(effect, ev.Send))
        step(a, ev.Received(answer), LEASE)
    assert a.role == "leader"


# ---- a record that an unclean voter told of -----------------------------------------------------------------------

ALL = slot(record(A, B, C, primary=A), 1, 5)
WITHOUT_C = slot(record(A, B, C, in_sync=[A, B], primary=A), 1, 6)
"""A stored it alone, and lost power."""


def refused_by_a(asked: int) -> ms.PreVoteAnswer:
    return ms.PreVoteAnswer("v", A, B, asked, False, 1, "older", WITHOUT_C, True, WITHOUT_C.stamp, (A, B))


def b_with_it() -> Brain:
    """B has heard of it, and is about to stand with it."""
    b = brain(B, ALL, epoch=1)
    step(b, ev.Received(refused_by_a(stand(b))), LEASE)
    return b


def answered_by(voter: Brain, question: ms.PreVote | ms.Vote, *, unclean: bool = True) -> ms.BrainMessage:
    (answer,) = (
        effect.message for effect in step(voter, ev.Received(question), 2 * LEASE) if isinstance(effect, ev.Send)
    )
    assert isinstance(answer, ms.PreVoteAnswer | ms.VoteAnswer) and answer.unclean is unclean
    return answer


def test_s3_what_an_unclean_voter_told_is_stored_with_the_first_record_of_who_is_elected_by_it() -> None:
    a, b = brain(A, WITHOUT_C, epoch=1, unclean=True), b_with_it()
    assert b.state.slot == ALL
    due_ns = b.candidacy.election_at_ns
    assert due_ns is not None
    step(b, ev.TimePassed(), due_ns)
    asked = b.candidacy.asking_epoch
    step(b, ev.Received(answered_by(a, ms.PreVote("v", B, A, asked, WITHOUT_C.stamp))), due_ns)
    assert b.role == "voting" and b.state.slot == ALL
    step(b, ev.Received(answered_by(a, ms.Vote("v", B, A, asked, WITHOUT_C.stamp))), due_ns)
    assert b.role == "leader"
    assert b.state.slot is not None
    assert b.state.slot.record == replace(WITHOUT_C.record, primary=B)
    assert b.state.slot.stamp > WITHOUT_C.stamp


def test_s3_who_lost_power_with_what_an_unclean_voter_told_makes_no_majority_for_it() -> None:
    """C, clean and in sync by the only record that two ever stored, has acknowledged writes that A and B lost."""
    b = brain(B, b_with_it().state.slot, epoch=1, unclean=True)
    a = brain(A, WITHOUT_C, epoch=1, unclean=True)
    asked = stand(a)
    step(a, ev.Received(answered_by(b, ms.PreVote("v", A, B, asked, WITHOUT_C.stamp, unclean=True))), LEASE)
    assert a.role == "pre-voting", "the record before is known, and names C"
    step(a, ev.Received(ms.PreVoteAnswer("v", C, A, asked, True, 1, "", None, True, ALL.stamp, (A, B, C))), LEASE)
    assert a.role == "voting"


def test_s3_nor_does_who_led_by_it_and_lost_power_before_anybody_else_stored_that() -> None:
    led = slot(replace(WITHOUT_C.record, primary=B), 2, 7)
    a, b = brain(A, WITHOUT_C, epoch=1, unclean=True), brain(B, led, epoch=2, unclean=True)
    asked = stand(a)
    told = ms.PreVoteAnswer("v", B, A, asked, False, 2, "older", led, True, led.stamp, (A, B))
    step(a, ev.Received(told), LEASE)
    assert a.state.slot == WITHOUT_C
    due_ns = a.candidacy.election_at_ns
    assert due_ns is not None
    step(a, ev.TimePassed(), due_ns)
    question = ms.PreVote("v", A, B, a.candidacy.asking_epoch, led.stamp, unclean=True)
    step(a, ev.Received(answered_by(b, question)), due_ns)
    assert a.role == "pre-voting", "C may be clean, and in sync by the record before"


def test_s3_the_two_last_records_of_a_reign_tell_without_the_third_voter() -> None:
    """A let go of B in a record that nobody else stored, and both lose power. Which one counts, neither can tell; by
    both of them only A and B may be in sync."""
    before = slot(WITHOUT_C.record, 1, 6)
    after = slot(replace(WITHOUT_C.record, in_sync=(A,)), 1, 7)
    for held, may in ((before, True), (slot(before.record, 1, 5), False), (ALL, False)):
        a, b = brain(A, after, epoch=1, unclean=True), brain(B, held, epoch=1, unclean=True)
        question = ms.PreVote("v", A, B, stand(a), after.stamp, unclean=True)
        step(a, ev.Received(answered_by(b, question)), LEASE)
        assert (a.role == "voting") is may


def test_s3_a_pre_vote_answer_to_the_process_before_counts_for_nothing() -> None:
    """It said that B is unclean, as B was when it was asked; A has lost power since, and B has been compared."""
    a = Brain(hard(A, ALONE, epoch=6), TIMING, now_ns=7, fresh=True, unclean=True)
    asked = stand(a)
    late = ms.PreVoteAnswer("v", B, A, asked, True, 6, "", None, True, ALONE.stamp, (A,), began_ns=3)
    step(a, ev.Received(late), LEASE)
    assert a.role == "pre-voting" and not a.candidacy.answers
    step(a, ev.Received(replace(late, began_ns=7)), LEASE)
    assert B in a.candidacy.answers or a.role == "voting"


def test_s3_nobody_who_answers_may_have_the_last_committed_record_any_more() -> None:
    """Half of four hold one record and half the other, both without B: it is clean, and was in sync by the last that
    was committed."""
    four = (A, B, C, ELSEWHERE[0])
    first, second = Stamp(0, 3, 14), Stamp(0, 4, 15)
    in_sync = (A, C, ELSEWHERE[0])
    said = {A: Word(first, in_sync, True), ELSEWHERE[0]: Word(second, in_sync, True)}
    own = Word(second, in_sync, True)
    assert not may_win(C, own, (), len(four), {**said, B: Word(first, in_sync, False)}, {})
    assert may_win(C, own, (), len(four), {**said, B: Word(first, in_sync, True)}, {})
