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

    def __init__(self) -> None:
        self._taken: list[int] = []
        self._told_ns = 0

    def answered(self, took_ns: int, now_ns: int) -> list[int]:
        """What is to be told now, if anything."""
        if len(self._taken) < FELT_MAX:
            self._taken.append(took_ns)
        if now_ns - self._told_ns < EVERY_NS:
            return []
        taken, self._taken, self._told_ns = self._taken, [], now_ns
        return taken
