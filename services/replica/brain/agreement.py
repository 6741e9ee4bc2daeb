"""One proposal on its way: who stored it, and the moment at which a majority has."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.replica.brain.quorum import majority
from services.replica.brain.record import Slot, Voter


@dataclass(slots=True)
class Proposal:
    """The leader's latest record. Committed: a majority of the record's voters stored it in answer to the
    leader of that epoch (A1)."""

    slot: Slot
    accepted: set[Voter] = field(default_factory=set)
    committed: bool = False

    def accept(self, member: Voter) -> bool:
        """True at the answer that commits it. Who is only joining has no vote."""
        self.accepted.add(member)
        voters = self.slot.record.voters
        if self.committed or sum(voter in self.accepted for voter in voters) < majority(len(voters)):
            return False
        self.committed = True
        return True
