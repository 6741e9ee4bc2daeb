"""Who may stand and who gets a vote: every reason to refuse, one row each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Facts, Stamp, Timing
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.ballot import Ballot, refusal
from services.replica.brain.election import may_stand, rank
from stoscore.units import SECOND
from tests.support.voters import LEASE, A, B, C, W, brain, hard, record, sent, slot, step

ASKED = Ballot(
    candidate=A,
    asked_epoch=4,
    candidate_stamp=Stamp(0, 3, 7),
    candidate_unclean=False,
    pre=False,
    released=0,
    me=B,
    epoch=3,
    voted_for=None,
    stamp=Stamp(0, 3, 7),
    voters=(A, B, W),
    in_sync=(A, B),
    unclean=False,
    silent_ns=0,
    promised_ns=0,
    promised_to="",
    other_promise_ns=0,
    lease_ns=0,
)
PROMISED = replace(ASKED, promised_ns=1, promised_to="c", other_promise_ns=0)


def test_a_vote_is_granted_when_nothing_speaks_against_it() -> None:
    assert refusal(ASKED) == ""
    assert ASKED.judge().kind == "grant"


@pytest.mark.parametrize(
    ("ballot", "reason"),
    [
        (replace(ASKED, silent_ns=1), "P3"),
        (replace(ASKED, asked_epoch=2), "not above"),
        (replace(ASKED, asked_epoch=3, voted_for=C), "not above"),
        (replace(ASKED, asked_epoch=3, pre=True), "not above"),
        (PROMISED, "c holds a live promise (P1)"),
        (replace(PROMISED, released=2), "P1"),
        (replace(PROMISED, released=3, other_promise_ns=1), "P1"),
        (replace(ASKED, lease_ns=1), "live lease"),
        (replace(ASKED, candidate_stamp=Stamp(0, 3, 6)), "A1"),
        (replace(ASKED, candidate_stamp=Stamp(0, 2, 9)), "A1"),
        (replace(ASKED, candidate=W), "witness"),
        (replace(ASKED, candidate=C), "no voter"),
        (replace(ASKED, candidate_unclean=True), "S3"),
    ],
)
def test_refusals(ballot: Ballot, reason: str) -> None:
    assert reason in refusal(ballot)
    verdict = ballot.judge()
    assert verdict.kind == "refuse"
    assert reason in verdict.outcome


@pytest.mark.parametrize(
    "ballot",
    [
        replace(ASKED, asked_epoch=3, voted_for=A),  # the same vote again
        replace(PROMISED, released=3),  # the leader of the stored epoch named this candidate (P5)
        replace(ASKED, candidate_unclean=True, unclean=True),  # both may have lost something
        replace(ASKED, candidate_unclean=True, me=W),  # no copy to protect
        replace(ASKED, candidate_stamp=Stamp(0, 4, 1)),  # a newer epoch beats a higher version
        replace(ASKED, candidate=C, candidate_stamp=Stamp(0, 3, 8)),  # a voter of a record that we do not have yet
    ],
)
def test_grants(ballot: Ballot) -> None:
    assert refusal(ballot) == ""


def test_only_an_in_sync_data_replica_may_stand() -> None:
    assert may_stand(hard(A, None)) == "it has no record"
    assert may_stand(hard(W, slot(record(A, B, W)))) == "a witness never stands"
    assert may_stand(hard(B, slot(record(A, B, W, in_sync=[A])))) == "it is not in sync"
    assert may_stand(hard(A, slot(record(A, B, W, in_sync=[A])))) == ""


def test_rank_is_the_place_in_the_set_without_who_is_gone() -> None:
    rec = record(A, B, C)
    assert [rank(rec, voter, None) for voter in (A, B, C)] == [0, 1, 2]
    assert [rank(rec, voter, A) for voter in (B, C)] == [0, 1]
    assert rank(rec, W, None) == 3


def test_the_leader_counts_less_and_the_restarted_voter_is_silent_longer_than_the_lease() -> None:
    timing = Timing(lease_ns=1000, drift_ppm=10_000, beat_ns=100, suspect_ns=900)
    assert timing.counted_ns(1000) == 990
    assert timing.silence_ns(2000) == 2020
    with pytest.raises(AssertionError):
        replace(timing, beat_ns=400).validate()
    with pytest.raises(AssertionError):
        replace(timing, suspect_ns=1001).validate()


def stands(effects: list[ev.Effect]) -> list[ev.Explain]:
    return [effect for effect in effects if isinstance(effect, ev.Explain) and effect.kind == "stand"]


def test_a_stand_that_is_tried_again_in_vain_is_told_when_something_else_than_the_time_has_changed() -> None:
    """A waits for a majority for an hour: its history is one line, not thousands."""
    machine = brain(A, slot(record(A, B, C)))
    told = stands(step(machine, ev.TimePassed()))
    asked = 0
    for _ in range(50):
        due = machine.next_deadline_ns(Facts())
        assert due is not None
        out = step(machine, ev.TimePassed(), due)
        asked += sum(isinstance(message, ms.PreVote) for message in sent(out))
        told += stands(out)
    assert asked >= 40, "it goes on trying"
    assert len(told) == 1
    step(machine, ev.PeerUp("b"), due)
    again = machine.next_deadline_ns(Facts())
    assert again is not None
    assert len(stands(step(machine, ev.TimePassed(), again))) == 1


def test_a_pre_vote_that_is_refused_again_for_the_same_reason_is_told_once() -> None:
    machine = brain(B, slot(record(A, B, C), 3, 7), epoch=3)
    for candidate in (A, C) * 5:
        out = step(machine, ev.Received(ms.PreVote("v", candidate, B, 4, Stamp(0, 3, 6))), LEASE)
        assert isinstance(sent(out)[0], ms.PreVoteAnswer)
    again = step(machine, ev.Received(ms.PreVote("v", A, B, 4, Stamp(0, 3, 6))), 2 * LEASE)
    assert [effect for effect in again if isinstance(effect, ev.Explain)] == []
    higher = step(machine, ev.Received(ms.PreVote("v", A, B, 5, Stamp(0, 3, 6))), 2 * LEASE)
    assert [effect.kind for effect in higher if isinstance(effect, ev.Explain)] == ["refuse"]


def test_a_leaders_silence_is_counted_from_its_last_word() -> None:
    """Not from when its node was declared to be gone, which is a lease later for one that was paused or cut off."""
    machine = brain(B, slot(record(A, B, C, primary=A), 3, 7), epoch=3)
    step(machine, ev.PeerUp("a"), SECOND)
    step(machine, ev.PeerDown("a"), 3 * SECOND)
    (told,) = stands(step(machine, ev.TimePassed(), 4 * SECOND, Facts(leader_heard_ns=2 * SECOND)))
    assert "to wait for a, silent for 2.00 s" in told.alternatives
