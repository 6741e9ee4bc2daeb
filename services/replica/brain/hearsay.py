"""Records that were told of and that this voter does not hold: what to stand with, whom to hear, and who told."""

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
    """One voter's. What is no newer than its own record counts no more."""

    def __init__(self) -> None:
        self._told: dict[Stamp, Told] = {}

    def add(self, slot: Slot, by: Voter, mine: Stamp) -> tuple[Voter, ...]:
        """Everybody who has told of it."""
        known = self._told.get(slot.stamp, Told(slot, ()))
        told = Told(slot, (*(voter for voter in known.by if voter != by), by))
        newer = {stamp: other for stamp, other in self._told.items() if stamp > mine} | {slot.stamp: told}
        self._told = dict(sorted(newer.items())[-TOLD_MAX:])
        return told.by

    def newest(self, mine: Stamp) -> Slot | None:
        """Whomever it names."""
        return self._newest([told.slot for stamp, told in self._told.items() if stamp > mine])

    def naming(self, me: Voter, mine: Stamp) -> Slot | None:
        """The newest that names us in sync."""
        slots = [told.slot for stamp, told in self._told.items() if stamp > mine]
        return self._newest([slot for slot in slots if me in slot.record.in_sync])

    @staticmethod
    def _newest(slots: list[Slot]) -> Slot | None:
        return max(slots, key=lambda slot: slot.stamp, default=None)
