"""One proposal: committed by the answer that makes a majority, once."""

from __future__ import annotations

from services.replica.brain.agreement import Proposal
from tests.support.voters import A, B, C, W, record, slot


def test_the_majority_commits_once() -> None:
    proposal = Proposal(slot(record(A, B, C)))
    assert not proposal.accept(A)
    assert not proposal.accept(A), "the same voter counts once"
    assert proposal.accept(C)
    assert not proposal.accept(B)
    assert proposal.committed


def test_one_voter_is_its_own_majority_and_two_need_both() -> None:
    assert Proposal(slot(record(A))).accept(A)
    pair = Proposal(slot(record(A, W)))
    assert not pair.accept(A)
    assert pair.accept(W)
