"""Who may stand and who gets a vote: every reason to refuse, one row each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.replica.brain import Facts, Stamp, Timing
from services.replica.brain.election import Asked, may_stand, rank, refusal
from tests.support.voters import LEASE, A, B, C, W, hard, record, slot

STATE = hard(B, slot(record(A, B, W), 3, 7), epoch=3)
ASKED = Asked(A, 4, Stamp(0, 3, 7), unclean=False)
CALM = {"now_ns": LEASE, "silent_until_ns": 0, "facts": Facts(), "leading": False, "unclean": False}


def test_a_vote_is_granted_when_nothing_speaks_against_it() -> None:
    assert refusal(STATE, ASKED, **CALM) == ""


@pytest.mark.parametrize(
    ("state", "asked", "facts", "reason"),
    [
        (hard(B, None), ASKED, {}, "no record yet"),
        (STATE, ASKED, {"silent_until_ns": LEASE + 1}, "P3"),
        (STATE, replace(ASKED, epoch=2), {}, "not above"),
        (replace(STATE, voted_for=C), replace(ASKED, epoch=3), {}, "not above"),
        (STATE, ASKED, {"facts": Facts(promised_until_ns=LEASE + 1)}, "P1"),
        (STATE, ASKED, {"leading": True, "facts": Facts(lease_until_ns=LEASE + 1)}, "live lease"),
        (STATE, replace(ASKED, stamp=Stamp(0, 3, 6)), {}, "A1"),
        (STATE, replace(ASKED, stamp=Stamp(0, 2, 9)), {}, "A1"),
        (STATE, replace(ASKED, candidate=W), {}, "witness"),
        (STATE, replace(ASKED, unclean=True), {}, "S3"),
    ],
)
def test_refusals(state, asked, facts, reason) -> None:  # type: ignore[no-untyped-def]
    assert reason in refusal(state, asked, **{**CALM, **facts})


@pytest.mark.parametrize(
    ("state", "asked", "facts"),
    [
        (replace(STATE, voted_for=A), replace(ASKED, epoch=3), {}),  # the same vote again
        (STATE, ASKED, {"facts": Facts(promised_until_ns=LEASE)}),  # the promise has just ended
        (STATE, ASKED, {"leading": True, "facts": Facts(lease_until_ns=LEASE)}),
        (STATE, replace(ASKED, unclean=True), {"unclean": True}),  # both may have lost something
        (hard(W, slot(record(A, B, W), 3, 7), epoch=3), replace(ASKED, unclean=True), {}),  # no copy to protect
        (STATE, replace(ASKED, stamp=Stamp(0, 4, 1)), {}),  # a newer epoch beats a higher version
    ],
)
def test_grants(state, asked, facts) -> None:  # type: ignore[no-untyped-def]
    assert refusal(state, asked, **{**CALM, **facts}) == ""


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
