"""What a voter tells though it had no choice: that it was founded, that its disk failed, that it is lost, that it is
not understood."""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain import events as ev
from services.replica.brain.decisions import Verdict, inputs_of, recorded
from services.replica.brain.record import Record, Voter


@recorded
@dataclass(frozen=True, slots=True)
class Founding:
    """The first record arrived."""

    me: Voter
    record: Record

    def judge(self) -> Verdict:
        voters = ", ".join(voter.node for voter in self.record.voters)
        return Verdict("found", f"first record of {self.record.name}: {voters}")


@recorded
@dataclass(frozen=True, slots=True)
class Failed:
    """The disk refused a write, a sync or the hard state."""

    me: Voter
    failure: str
    votes: bool
    """The hard state can still be stored."""

    def judge(self) -> Verdict:
        then = "its copy counts for nothing" if self.votes else "it keeps silent, for it can't store a vote"
        return Verdict("fail", f"the disk of {self.me.node} failed ({self.failure}): {then}")


@recorded
@dataclass(frozen=True, slots=True)
class Lost:
    """What is found on disk can't be used: a lost voter, never a fresh one (I1)."""

    node: str
    reason: str

    def judge(self) -> Verdict:
        return Verdict("fail", f"the voter on {self.node} is lost and keeps silent: {self.reason}")


def lost_voter(node: str, reason: str) -> ev.Explain:
    """Told by the node: a lost voter has no brain."""
    lost = Lost(node, reason)
    verdict = lost.judge()
    return ev.Explain(verdict.kind, verdict.outcome, inputs_of(lost))


@recorded
@dataclass(frozen=True, slots=True)
class Misunderstood:
    """Another voter runs a version that does not know what we say."""

    node: str
    what: str
    speaks: int
    ours: int

    def judge(self) -> Verdict:
        versions = f"it speaks version {self.speaks}, this node {self.ours}"
        return Verdict("misunderstood", f"{self.node} does not understand {self.what}: {versions}")
