"""Who gets a vote: one judgement over everything that it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.record import Stamp, Voter


@recorded
@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote, or with `pre` a pre-vote, as it is asked of us, and how we stand at this moment."""

    candidate: Voter
    asked_epoch: int
    candidate_stamp: Stamp
    candidate_unclean: bool
    pre: bool
    released: int
    """The epoch whose leader named this candidate its successor (P5); 0: none did."""
    me: Voter
    epoch: int
    voted_for: Voter | None
    stamp: Stamp
    voters: tuple[Voter, ...]
    in_sync: tuple[Voter, ...]
    unclean: bool
    silent_ns: int
    """How long we have to keep silent still; 0: not."""
    promised_ns: int
    """How long a promise to another leader binds us still; 0: none does."""
    promised_to: str
    other_promise_ns: int
    """The same without the promise to the leader of the epoch that we store."""
    lease_ns: int
    """How long our own lease as the leader holds still; 0: we do not lead, or have none."""

    def judge(self) -> Verdict:
        reason = refusal(self)
        what = "pre-vote" if self.pre else "vote"
        if reason:
            return Verdict("refuse", f"no {what} for {self.candidate.node} in epoch {self.asked_epoch}: {reason}")
        lifted = self.released_here() and self.promised_ns > 0
        turned_down = (f"to keep silent: {self.promised_to} released its promise",) if lifted else ()
        return Verdict("grant", f"{what} for {self.candidate.node} in epoch {self.asked_epoch}", turned_down)

    def released_here(self) -> bool:
        """The promise that binds us is the one that the release lifts: that of the epoch that we store."""
        return 0 < self.released == self.epoch

    def bound_ns(self) -> int:
        return self.other_promise_ns if self.released_here() else self.promised_ns


def refusal(ballot: Ballot) -> str:
    """Why the vote is refused, or "" to grant it."""
    asked, candidate = ballot.asked_epoch, ballot.candidate
    if ballot.silent_ns > 0:
        return "started too recently: a promise of the process before may still bind (P3)"
    if asked < ballot.epoch or (asked == ballot.epoch and (ballot.pre or ballot.voted_for not in (None, candidate))):
        return f"epoch {asked} is not above {ballot.epoch}"
    if ballot.bound_ns() > 0:
        return f"{ballot.promised_to or 'another leader'} holds a live promise (P1)"
    if ballot.lease_ns > 0:
        return "it leads with a live lease"
    if ballot.candidate_stamp < ballot.stamp:
        return "the candidate's record is older (A1)"
    if candidate.kind != "data":
        return "a witness never stands"
    if ballot.candidate_stamp == ballot.stamp and candidate not in ballot.voters:
        return "the candidate is no voter of the record that both hold (I1)"
    if ballot.candidate_unclean and not ballot.unclean and ballot.me in ballot.in_sync:
        return "the candidate may have lost unflushed writes and this in-sync voter has not (S3)"
    return ""
