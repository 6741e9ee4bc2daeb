"""How the clients of a volume fare, told to the node that serves it: recovery there gives way to them.

Nobody but the frontend knows what an application waits for: its node, the link, the primary and the copies, each with
what stands in the queue there. A few of the times in which it was answered go to the primary with the next answer, ten
times a second at most; a volume that nobody uses says nothing.
"""

from __future__ import annotations

from services.replica.peers.frames import FELT_MAX
from stoscore.units import MS

EVERY_NS = 100 * MS


class Felt:
    """One volume's."""

    __slots__ = ("_told_ns", "taken")

    def __init__(self) -> None:
        self.taken: list[int] = []
        """Nanoseconds of each request that was answered since the last word."""
        self._told_ns = 0

    def due(self, now_ns: int) -> list[int]:
        """What is to be told now, if anything."""
        if now_ns - self._told_ns < EVERY_NS or not self.taken:
            return []
        self._told_ns = now_ns
        told = self.taken[:: -(-len(self.taken) // FELT_MAX)]
        self.taken.clear()
        return told
