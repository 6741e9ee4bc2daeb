"""One node's recovery budget: what all copies that catch up from here may cost together, and whose turn it is.

A node that comes back with hundreds of volumes is asked by hundreds of primaries at once, and a primary's node may lead
many of them: were each to send as fast as it can, the applications' writes would wait behind all of them, and every
volume would stay short of a copy until nearly the end. So copies ask here before they leave. Whoever is refused waits
in order: the volume with the fewest copies in sync first, then the one with the least left to send, because each one
that is done is one risk less.

    ask --yes--> sent ... arrived
        --no---> hungry --turn, when there is room--> ask again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from stoscore.units import BLOCK_BYTES, GIB, MS, SECOND

Key = tuple[str, str]
"""(volume, node that catches up)"""
Rank = tuple[int, int]
"""(copies in sync, blocks left): the lowest goes first."""

BURST_NS = 50 * MS
"""How much of the rate may be spent at once: below it timers cost more than they smooth."""
COPY_BYTES_MAX = 64 * BLOCK_BYTES
COPIES_IN_FLIGHT = 32
"""Of 256 KiB: what lies in the sockets ahead of an application's write is 8 MiB at most."""
STUCK_NS = 2 * SECOND
"""Who confirms nothing for so long holds no place any more. *A copy came back on a disk that hung: its node lived, its
link too, and what had been sent to it was never confirmed. All others waited behind it, for ever.*"""
UNLIMITED = 1024 * GIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes a second, and copies that are sent and not confirmed."""

    bytes_per_s: int = UNLIMITED
    copies_in_flight: int = COPIES_IN_FLIGHT


class Flight(NamedTuple):
    """Copies of one that are sent and not confirmed."""

    copies: int
    confirmed_ns: int
    """When it last confirmed one, or got the first."""


class Budget:
    def __init__(self, limits: Limits):
        self.copies_in_flight = limits.copies_in_flight
        self._rate = limits.bytes_per_s
        self._tokens = self.burst
        self._filled_ns = 0
        self._flying: dict[Key, Flight] = {}
        self._sum = 0
        self.hungry: dict[Key, Rank] = {}
        """Who was refused and waits for its turn."""

    # ---- the rate -------------------------------------------------------------------------------------

    @property
    def bytes_per_s(self) -> int:
        return self._rate

    def set_rate(self, bytes_per_s: int, now_ns: int) -> None:
        self._fill(now_ns)
        self._rate = bytes_per_s
        self._tokens = min(self._tokens, self.burst)

    @property
    def burst(self) -> int:
        """Bytes that may leave at once after a rest."""
        return max(COPY_BYTES_MAX, self._rate * BURST_NS // SECOND)

    def blocks_ahead(self, key: Key, rank: Rank) -> int:
        """Of others that wait and go first."""
        return sum(theirs[1] for other, theirs in self.hungry.items() if other != key and theirs < rank)

    def _fill(self, now_ns: int) -> None:
        passed_ns = max(0, now_ns - self._filled_ns)
        self._tokens = min(self.burst, self._tokens + self._rate * passed_ns // SECOND)
        self._filled_ns = max(self._filled_ns, now_ns)

    # ---- spending -------------------------------------------------------------------------------------

    def ask(self, key: Key, rank: Rank, blocks: int, now_ns: int) -> bool:
        """May one copy of so many blocks leave now? Who is refused is told by `turn` when to ask again."""
        self._fill(now_ns)
        before = any(other != key and theirs < rank for other, theirs in self.hungry.items())
        if before or not self._has_room(now_ns):
            self.hungry[key] = rank
            return False
        self.hungry.pop(key, None)
        flight = self._flying.get(key, Flight(0, now_ns))
        self._flying[key] = flight._replace(copies=flight.copies + 1)
        self._sum += 1
        self._tokens -= blocks * BLOCK_BYTES
        return True

    def _has_room(self, now_ns: int) -> bool:
        if self._sum >= self.copies_in_flight:
            for key in [key for key, flight in self._flying.items() if now_ns - flight.confirmed_ns >= STUCK_NS]:
                self._lands(key)
        return self._tokens > 0 and self._sum < self.copies_in_flight

    def _lands(self, key: Key) -> None:
        flight = self._flying.pop(key, None)
        self._sum -= flight.copies if flight is not None else 0

    def arrived(self, key: Key, now_ns: int) -> None:
        """A copy was confirmed."""
        flight = self._flying.get(key)
        if flight is not None and flight.copies > 1:
            self._sum -= 1
            self._flying[key] = Flight(flight.copies - 1, now_ns)
        else:
            self._lands(key)

    def gone(self, key: Key) -> None:
        """It has everything, or its link ended: what it had under way counts no more, and it wants nothing."""
        self._lands(key)
        self.hungry.pop(key, None)

    # ---- whose turn it is -----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many copies that catch up were refused and wait for their turn."""
        return len(self.hungry)

    def turn(self, now_ns: int) -> Key | None:
        """Who was refused and is to ask again now. Told once: whoever does not ask wants nothing any more."""
        if not self.hungry:
            return None
        self._fill(now_ns)
        if not self._has_room(now_ns):
            return None
        first = min(self.hungry.items(), key=lambda item: (item[1], item[0]))[0]
        del self.hungry[first]
        return first

    def next_deadline_ns(self) -> int | None:
        """When time alone makes room; None: nobody waits."""
        if not self.hungry:
            return None
        if self._sum >= self.copies_in_flight:
            return min(flight.confirmed_ns for flight in self._flying.values()) + STUCK_NS
        missing = max(0, 1 - self._tokens)
        return self._filled_ns + -(-missing * SECOND // self._rate)
