"""Who came and who went, told to one volume after the other: a few in a turn of the loop, in the order in which it was.

*A node with hundreds of volumes came back. All brains that shared one with it stepped in a single turn, for a tenth of
a second in which no request was answered and no beat left.* Nothing waits for the last of them: a volume that has not
been told yet is where it was a moment before the link itself told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from services.replica.brain import events as ev
from services.replica.driver.volume import Volume

TOLD_AT_ONCE = 16
"""Volumes: some two milliseconds."""

Seen = ev.PeerUp | ev.PeerDown | ev.HeardOnBus | ev.SilentOnBus


class Told(NamedTuple):
    volume: Volume
    seen: Seen
    reason: str


class News:
    """In one queue, whatever became of whom: *told out of turn that a node was heard over the bus, and after that that
    its link had come up before, a volume forgot what was true.*"""

    def __init__(self) -> None:
        self._waiting: deque[Told] = deque()
        self.due_ns: int | None = None
        """When the next are to be told; None: nobody waits."""

    def add(self, volumes: Iterable[Volume], seen: Seen, reason: str, now_ns: int) -> None:
        self._waiting.extend(Told(volume, seen, reason) for volume in volumes)
        if self._waiting and self.due_ns is None:
            self.due_ns = now_ns

    def take(self) -> list[Told]:
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), TOLD_AT_ONCE))]
        if not self._waiting:
            self.due_ns = None
        return taken
