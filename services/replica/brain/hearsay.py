"""Records that were told of and that this voter does not hold: what to stand with, whom to hear, and who told.

Newer ones than its own may be committed (A3). An older one that names it in sync may be the last that is: its own,
which leaves it out, may never have come to a majority.
"""

from __future__ import annotations

from typing import NamedTuple

from services.replica.brain.election import Adoption, Regaining
from services.replica.brain.local import Local
from services.replica.brain.record import Slot, Stamp, Voter

TOLD_MAX = 16
"""More than honest voters have at a time; a broken one can make up any number."""


class Told(NamedTuple):
    slot: Slot
    by: tuple[Voter, ...]
    """The latest last."""


class Hearsay:
    """One voter's."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._told: dict[Stamp, Told] = {}

    def add(self, slot: Slot, by: Voter, mine: Slot) -> Adoption:
        """And what becomes of it beside our own."""
        me, known = self._local.me, self._told.get(slot.stamp, Told(slot, ()))
        told = Told(slot, (*(voter for voter in known.by if voter != by), by))
        others = {at: it for at, it in self._told.items() if at > mine.stamp or me in it.slot.record.in_sync}
        self._told = dict(sorted((others | {slot.stamp: told}).items())[-TOLD_MAX:])
        return Adoption(me, mine.stamp, slot, told.by)

    def newest(self) -> Slot | None:
        """Newer than our own, whomever it names."""
        mine = self._local.state.slot
        slots = [told.slot for stamp, told in self._told.items() if mine is not None and stamp > mine.stamp]
        return max(slots, key=lambda slot: slot.stamp, default=None)

    def to_stand_with(self) -> Slot | None:
        """The newest that names us in sync; an older one than our own where that may never be committed; or our own."""
        mine = self._local.state.slot
        if mine is None:
            return None
        named = [told for told in self._told.values() if self._local.me in told.slot.record.in_sync]
        newest = max(named, key=lambda told: told.slot.stamp, default=None)
        if newest is not None and newest.slot.stamp > mine.stamp:
            return newest.slot
        regained = self.older(mine)
        return regained.slot if regained is not None and self.regaining(regained, mine).judge().kind else mine

    def older(self, mine: Slot) -> Told | None:
        """The newest that names us in sync, of the same voters: what either is committed by, the other sees."""
        if mine.record.deleted:
            return None
        told = [
            told
            for stamp, told in self._told.items()
            if (stamp.generation == mine.stamp.generation and stamp < mine.stamp)
            and self._local.me in told.slot.record.in_sync
            and set(told.slot.record.voters) == set(mine.record.voters)
        ]
        return max(told, key=lambda each: each.slot.stamp, default=None)

    def regaining(self, told: Told, mine: Slot) -> Regaining:
        local = self._local
        return Regaining(
            me=local.me,
            mine=mine.stamp,
            voters=len(mine.record.voters),
            in_sync=mine.record.in_sync,
            older=told.slot.stamp,
            by=told.by[-1],
            committed=local.committed,
            unclean=local.unclean,
            failure=local.failure,
        )
