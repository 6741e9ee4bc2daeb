"""Giving votes: what a voter answers to a candidate, and what it must remember before the answer leaves (A4)."""

from __future__ import annotations

from services.replica.brain import messages as ms
from services.replica.brain.ballot import Ballot
from services.replica.brain.candidacy import Candidacy
from services.replica.brain.decisions import Verdict
from services.replica.brain.election import Facts
from services.replica.brain.leading import Leading
from services.replica.brain.local import Local
from services.replica.brain.record import Slot, newer


class Voting:
    """One voter's votes for others; the vote itself is part of the hard state."""

    def __init__(self, local: Local, leading: Leading, candidacy: Candidacy):
        self._local = local
        self._leading = leading
        self._candidacy = candidacy

    def pre_vote(self, message: ms.PreVote, now_ns: int, facts: Facts) -> None:
        """Changes nothing here, so a returning node disturbs nobody."""
        local, slot = self._local, self._local.state.slot
        if slot is None:
            return
        ballot = self._ballot(message, slot, now_ns, facts)
        verdict = ballot.judge()
        if verdict.kind == "refuse":
            local.tell_once(ballot, verdict)
        answer = ms.PreVoteAnswer(
            message.volume,
            local.me,
            message.sender,
            message.epoch,
            verdict.kind == "grant",
            local.epoch,
            _reason(verdict),
            newer(slot, message.stamp),
            local.unclean,
            slot.stamp,
            slot.record.in_sync,
            message.began_ns,
        )
        local.send(answer)

    def vote(self, message: ms.Vote, now_ns: int, facts: Facts) -> None:
        local, slot = self._local, self._local.state.slot
        if slot is None:
            return
        ballot = self._ballot(message, slot, now_ns, facts)
        verdict = ballot.judge()
        if verdict.kind == "grant":
            self._grant(ballot, now_ns)
        local.tell(ballot, verdict)
        answer = ms.VoteAnswer(
            message.volume,
            local.me,
            message.sender,
            message.epoch,
            verdict.kind == "grant",
            local.epoch,
            _reason(verdict),
            newer(slot, message.stamp),
            local.unclean,
        )
        local.send(answer)

    def _grant(self, ballot: Ballot, now_ns: int) -> None:
        local = self._local
        if ballot.released_here():
            # Before the epoch rises: a promise that is withdrawn then goes on to bind us.
            local.lift_promise(ballot.promised_to, ballot.epoch)
        if ballot.asked_epoch > local.epoch:
            self._leading.yield_to(ballot.asked_epoch, ballot.candidate.node)
            local.raise_epoch(ballot.asked_epoch, ballot.candidate)
        elif local.state.voted_for is None:
            local.vote_for(ballot.candidate)
        local.leader = None
        local.role = "follower"
        if not self._candidacy.may_not_stand():
            # The winner speaks up soon; if it dies first, we stand.
            patience_ns = 2 * local.timing.lease_ns
            self._candidacy.election_at_ns = self._candidacy.start_ns(now_ns, ballot.candidate) + patience_ns

    def _ballot(self, message: ms.PreVote | ms.Vote, slot: Slot, now_ns: int, facts: Facts) -> Ballot:
        local = self._local
        return Ballot(
            candidate=message.sender,
            asked_epoch=message.epoch,
            candidate_stamp=message.stamp,
            candidate_unclean=message.unclean,
            pre=isinstance(message, ms.PreVote),
            released=message.released,
            me=local.me,
            epoch=local.epoch,
            voted_for=local.state.voted_for,
            stamp=slot.stamp,
            voters=slot.record.voters,
            in_sync=slot.record.in_sync,
            unclean=local.unclean,
            silent_ns=max(0, local.silent_until_ns - now_ns),
            promised_ns=max(0, facts.promised_until_ns - now_ns),
            promised_to=facts.promised_to,
            other_promise_ns=max(0, facts.other_promise_until_ns - now_ns),
            lease_ns=max(0, facts.lease_until_ns - now_ns) if local.role == "leader" else 0,
        )


def _reason(verdict: Verdict) -> str:
    return verdict.outcome if verdict.kind == "refuse" else ""
