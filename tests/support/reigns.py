"""What voters may have stored before all of them are started again: the records of a few reigns that kept the rules.

A leader proposes its next record when a majority has stored the one before. Its last one may be on itself alone, and
whoever was away still has an older one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from services.replica.brain import Record, Slot, Voter
from services.replica.brain.quorum import majority
from tests.support.voters import record, slot

REIGNS_MAX = 3
PROPOSALS_MAX = 4
"""In one reign."""


@dataclass
class Past:
    """One volume's, in which nobody has lost power yet."""

    stored: dict[Voter, Slot]
    epochs: dict[Voter, int]
    committed: list[Slot]
    required: frozenset[Voter]
    """Who has every acknowledged write: the last committed in-sync set and every set proposed since (S1)."""

    @property
    def _needed(self) -> int:
        """Besides the leader."""
        return majority(len(self.stored)) - 1

    def reign(self, dice: Random, epoch: int) -> None:
        leader = dice.choice([voter for voter in self.stored if self._may_lead(voter)])
        granting = self._granting(leader)
        for voter in (leader, *dice.sample(granting, dice.randint(self._needed, len(granting)))):
            self.epochs[voter] = epoch
        proposed = replace(self.stored[leader].record, primary=leader)
        for _ in range(dice.randrange(PROPOSALS_MAX)):
            self._propose(leader, epoch, proposed, self._storing(dice, leader, self._needed))
            proposed = after(dice, proposed, leader)
        self._propose(leader, epoch, proposed, self._storing(dice, leader, 0))

    def _storing(self, dice: Random, leader: Voter, least: int) -> list[Voter]:
        others = [voter for voter in self.stored if voter != leader]
        return dice.sample(others, dice.choice((least, least, dice.randint(least, len(others)))))

    def _propose(self, leader: Voter, epoch: int, proposed: Record, storing: list[Voter]) -> None:
        latest = self.stored[leader].next(epoch, proposed)
        for voter in (leader, *storing):
            self.stored[voter], self.epochs[voter] = latest, epoch
        if len(storing) >= self._needed:
            self.committed.append(latest)
            self.required = frozenset(proposed.in_sync)
        elif self.committed[-1].stamp.epoch == epoch:
            self.required |= set(proposed.in_sync)

    def _granting(self, candidate: Voter) -> list[Voter]:
        stamp = self.stored[candidate].stamp
        return [voter for voter, stored in self.stored.items() if voter != candidate and stored.stamp <= stamp]

    def _may_lead(self, voter: Voter) -> bool:
        in_sync = voter in self.stored[voter].record.in_sync
        return in_sync and len(self._granting(voter)) >= self._needed


def after(dice: Random, before: Record, leader: Voter) -> Record:
    """A member is lost, one has caught up, or something else has changed."""
    lost = [voter for voter in before.in_sync if voter != leader]
    back = [voter for voter in before.voters if voter.kind == "data" and voter not in before.in_sync]
    what = dice.random()
    if what < 0.45 and lost:
        gone = dice.choice(lost)
        return replace(before, in_sync=tuple(voter for voter in before.in_sync if voter != gone))
    if what < 0.8 and back:
        return replace(before, in_sync=(*before.in_sync, dice.choice(back)))
    return before


def past(dice: Random, voters: tuple[Voter, ...]) -> Past:
    first = slot(record(*voters))
    told = Past(dict.fromkeys(voters, first), dict.fromkeys(voters, 0), [first], frozenset(first.record.in_sync))
    for epoch in range(1, dice.randint(1, REIGNS_MAX) + 1):
        told.reign(dice, epoch)
    return told
