"""Records that were told of and that this voter does not hold: what to stand with, whom to hear, and who told.

Newer ones than its own may be committed (A3). An older one that names it in sync may be the last that is: its own,
which leaves it out, may never have come to a majority.
"""

from __future__ import annotations

from typing import NamedTuple

from services.replica.brain.record import Slot, Stamp, Voter

TOLD_MAX = 16
"""More than honest voters have at a time; a broken one can make up any number."""


class Told(NamedTuple):
    slot: Slot
    by: tuple[Voter, ...]
    """The latest last."""


class Hearsay:
    """One voter's."""

    def __init__(self) -> None:
        self._told: dict[Stamp, Told] = {}

    def add(self, slot: Slot, by: Voter, me: Voter, mine: Stamp) -> tuple[Voter, ...]:
        """Everybody who has told of it."""
        known = self._told.get(slot.stamp, Told(slot, ()))
        told = Told(slot, (*(voter for voter in known.by if voter != by), by))
        others = {at: other for at, other in self._told.items() if at > mine or me in other.slot.record.in_sync}
        self._told = dict(sorted((others | {slot.stamp: told}).items())[-TOLD_MAX:])
        return told.by

    def newest(self, mine: Stamp) -> Slot | None:
        """Whomever it names."""
        return self._newest([told.slot for stamp, told in self._told.items() if stamp > mine])

    def naming(self, me: Voter, mine: Stamp) -> Slot | None:
        """The newest that names us in sync."""
        slots = [told.slot for stamp, told in self._told.items() if stamp > mine]
        return self._newest([slot for slot in slots if me in slot.record.in_sync])

    def older(self, me: Voter, mine: Slot) -> Told | None:
        """The newest that names us in sync, of the same voters: what either is committed by, the other sees."""
        if mine.record.deleted:
            return None
        told = [
            told
            for stamp, told in self._told.items()
            if (stamp.generation == mine.stamp.generation and stamp < mine.stamp)
            and me in told.slot.record.in_sync
            and set(told.slot.record.voters) == set(mine.record.voters)
        ]
        return max(told, key=lambda each: each.slot.stamp, default=None)

    @staticmethod
    def _newest(slots: list[Slot]) -> Slot | None:
        return max(slots, key=lambda slot: slot.stamp, default=None)
