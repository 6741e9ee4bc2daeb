"""Syncs under way at a primary: which ticket waits for whom, and since when.

    a client's flush --ticket--> own store + every receiving peer --all of the required set have synced--> answer

One row of tickets numbers everything that ends in fdatasync: a client's flush, the sync that ends a member's catching
up (S4), the one that cleans an unclean take-over (S3), and our own before regions are unmarked (T3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.replica.replication.effects import Effect, SyncStore, Tell, UnmarkRegions
from services.replica.replication.gate import Gate
from services.replica.replication.messages import Flush
from services.replica.replication.peer import Peer
from services.replica.replication.peers import SELF_BIT, Peers
from services.replica.replication.withheld import Answers, Withheld


@dataclass(slots=True)
class FlushWait:
    """A flush on its way: who has synced already."""

    link: int
    session: int
    request: int
    since_ns: int
    done: int = 0


class Flushes:
    """One reign's."""

    def __init__(self, peers: Peers, gate: Gate, answers: Answers, cleaned: Callable[[], list[Effect]]):
        """`cleaned`: one more has done its part of the cleaning sync."""
        self._peers = peers
        self._gate = gate
        self._answers = answers
        self._cleaned = cleaned
        self.waiting: dict[int, FlushWait] = {}
        self._ticket = 0
        self._cleaning: int | None = None
        self._unmarking: dict[int, int] = {}
        """Ticket of a sync of our own -> how many operations had passed the gate before it."""

    def ticket(self) -> int:
        self._ticket += 1
        return self._ticket

    # ---- a client's ---------------------------------------------------------------------------------

    def begin(self, link: int, session: int, request: int, commit: int, now_ns: int) -> list[Effect]:
        """Of everybody that receives writes; the required set is waited for."""
        ticket = self.ticket()
        self.waiting[ticket] = FlushWait(link, session, request, now_ns)
        out: list[Effect] = [SyncStore(ticket)]
        if self._peers.receivers:
            out.append(Tell(self._peers.receivers, Flush(ticket, commit)))
        return out

    def asked_by(self, ticket: int) -> tuple[int, int] | None:
        """Session and number of the client's flush that this sync is for, if it is for one."""
        flush = self.waiting.get(ticket)
        return None if flush is None else (flush.session, flush.request)

    def synced(self, bit: int, ticket: int) -> list[Effect]:
        """One more has."""
        flush = self.waiting.get(ticket)
        if flush is None:
            return []
        flush.done |= bit
        return self._cleaned() if ticket == self._cleaning else self._check(ticket, flush)

    def synced_by(self, peer: Peer, ticket: int) -> list[Effect]:
        if peer.unclean and ticket != self._cleaning:
            return []  # S3: it has not got back yet what it may have lost
        return self.synced(peer.bit, ticket)

    def caught_up(self, peer: Peer, ticket: int) -> list[Effect]:
        """It holds everything, synced by this ticket: older ones count as confirmed by it."""
        older = [number for number in self.waiting if number < ticket]
        return [effect for number in older for effect in self.synced(peer.bit, number)]

    def recheck(self) -> list[Effect]:
        """Who is needed has changed."""
        return [effect for ticket, flush in list(self.waiting.items()) for effect in self._check(ticket, flush)]

    def _check(self, ticket: int, flush: FlushWait) -> list[Effect]:
        mask = self._peers.mask
        if ticket == self._cleaning or flush.done & mask != mask:
            return []
        del self.waiting[ticket]
        return self._answers.give(Withheld(flush.link, flush.session, flush.request))

    # ---- the one that cleans a take-over (S3) -------------------------------------------------------

    def begin_cleaning(self, now_ns: int) -> int:
        """Its ticket."""
        ticket = self._cleaning = self.ticket()
        self.waiting[ticket] = FlushWait(0, 0, 0, now_ns)
        return ticket

    def clean_again(self) -> None:
        """Somebody was lost: what it has done may be undone, and what it was told it has forgotten. *B had done its
        part, lost power again while C still synced, and was compared again: we served, with B unclean in the set. Or it
        had not, and came back: nobody told it to sync, and everybody waited until it was given up.*"""
        if self._cleaning is not None:
            del self.waiting[self._cleaning]
            self._cleaning = None

    @property
    def is_cleaning(self) -> bool:
        return self._cleaning is not None

    def end_cleaning(self, needed: int) -> bool:
        """As soon as all of these have synced."""
        ticket = self._cleaning
        if ticket is None or self.waiting[ticket].done & needed != needed:
            return False
        del self.waiting[ticket]
        self._cleaning = None
        return True

    # ---- our own, before regions are unmarked (T3) --------------------------------------------------

    def unmarks_at_ns(self) -> int | None:
        """When there are marks that have been quiet long enough."""
        return None if self._unmarking else self._gate.quiet_at_ns()

    def unmark(self, now_ns: int) -> list[Effect]:
        self._gate.touch(now_ns)
        ticket = self.ticket()
        self._unmarking[ticket] = self._gate.passed
        return [SyncStore(ticket, settles=True)]

    def synced_here(self, ticket: int, commit: int) -> list[Effect]:
        """Our own store is."""
        passed = self._unmarking.pop(ticket, None)
        if passed is None:
            return self.synced(SELF_BIT, ticket)
        regions = self._gate.unmark(passed, commit)
        return [UnmarkRegions(regions)] if regions else []

    # ---- patience -----------------------------------------------------------------------------------

    def owed_since_ns(self, bit: int) -> int | None:
        """Since when the oldest waits for this member."""
        return min((flush.since_ns for flush in self.waiting.values() if not flush.done & bit), default=None)

    def excuse(self, now_ns: int) -> None:
        for flush in self.waiting.values():
            flush.since_ns = now_ns
