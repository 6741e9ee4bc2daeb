"""A change of the voters that does not get through is taken back. Pure: one judgement.

    committed {A,B,W}, B behind   A proposes {A,W} without B   W dies before it stored that   A and B are there

By its own latest record A needs W, which may never come back; B, whom that record does without, counts for nothing. The
committed record can be had again: A proposes its voters anew, in the same epoch, with the next version.

Why that is safe though W may have stored the change after all, so that it is committed: voters that differ by one have
majorities that overlap (A2), so whoever stands with the change asks one who has stored the return, and is refused with
it (A1, A3). Only the leader that proposed the change can know that nothing was built on it, and only in its epoch: one
that was elected since may have gone on from the change. So a leader that stops in between has to find W.

An even number of voters needs one more of them than the odd number before it, or as many of fewer: the way back is
never harder than the way on. From an odd number it could be, and is not gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.quorum import majority
from services.replica.brain.record import Voter
from stoscore.units import in_seconds

PATIENCE_LEASES = 4
"""How long who is there may take to store a record, in leases."""


@recorded
@dataclass(frozen=True, slots=True)
class Retreat:
    """A leader, a record that it proposed and that is not committed, and the last one that is."""

    me: Voter
    committed: tuple[Voter, ...]
    proposed: tuple[Voter, ...]
    reached: tuple[str, ...]
    """Nodes of those proposed that messages get to."""
    waited_ns: int
    lease_ns: int

    def is_due(self) -> bool:
        if len(self.proposed) % 2 or not len(self.committed) % 2:
            return False
        there = sum(voter == self.me or voter.node in self.reached for voter in self.proposed)
        return there < majority(len(self.proposed)) or self.waited_ns >= PATIENCE_LEASES * self.lease_ns

    def judge(self) -> Verdict:
        if not self.is_due():
            return Verdict("", "")
        before, after = (", ".join(sorted(v.node for v in voters)) for voters in (self.committed, self.proposed))
        told = f"the voters stay {before}: no majority of {after} stored the change in {in_seconds(self.waited_ns)}"
        return Verdict("refuse", told, (f"to wait for a majority of {after}",))
