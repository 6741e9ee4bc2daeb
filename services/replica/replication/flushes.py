"""Syncs under way at a primary: which ticket waits for whom, and since when.

One row of tickets numbers everything that ends in fdatasync: a client's flush, the sync that ends a member's catching
up (S4), the one that cleans an unclean take-over (S3), and our own before regions are unmarked (T3).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class FlushWait:
    """A flush on its way: who has synced already."""

    link: int
    session: int
    request: int
    since_ns: int
    done: int = 0


class Flushes:
    def __init__(self) -> None:
        self.waiting: dict[int, FlushWait] = {}
        self._ticket = 0

    def ticket(self) -> int:
        self._ticket += 1
        return self._ticket

    def begin(self, link: int, session: int, request: int, now_ns: int) -> int:
        """The ticket of a flush that waits for the required set."""
        ticket = self.ticket()
        self.waiting[ticket] = FlushWait(link, session, request, now_ns)
        return ticket

    def synced(self, bit: int, ticket: int) -> bool:
        """One more has synced; False when nobody waits for that ticket."""
        flush = self.waiting.get(ticket)
        if flush is None:
            return False
        flush.done |= bit
        return True

    def done_by(self, ticket: int, mask: int) -> bool:
        return self.waiting[ticket].done & mask == mask

    def older_than(self, ticket: int) -> list[int]:
        return [number for number in self.waiting if number < ticket]

    def owed_since(self, bit: int) -> int | None:
        """Since when the oldest waits for this member."""
        return min((flush.since_ns for flush in self.waiting.values() if not flush.done & bit), default=None)

    def excuse(self, now_ns: int) -> None:
        for flush in self.waiting.values():
            flush.since_ns = now_ns
