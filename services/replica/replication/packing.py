"""When the copies that bring a peer up to date are packed (compressed) on their way.

Packing is work for the processors at both ends, and spares time on the wire. It pays while it spares more than it
costs: a text on a link of 1 Gbit/s, hardly anything on one of 10, and never what does not get smaller. None of this is
known beforehand, so each copy that is packed is a try, and says whether it was worth it:

    spared bytes / what the link carries a second  >  processor time that packing took, and unpacking will take

While tries pay, the next copy is packed as well. After one that does not, one copy goes as it is before the next try,
then 3, 7, 15 and so on, up to 64 MiB: of n copies that don't get smaller about log2(n) are tried.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from stoscore.units import SECOND

SMALLER = 8
"""What did not lose an eighth goes as it is: its receiver is spared the unpacking."""
PAUSE_MAX = 255
"""Copies that go as they are between two tries."""
LOOKS = 32
"""The latest ones at what the link has carried, one with each copy, so over some MiB: a link that is limited to a rate
lets each burst pass at a far higher one."""
_US_IN_SECOND = 1_000_000
_BOTH_ENDS = 4, 3
"""Unpacking takes about a third of what packing took (measured: 3.5 and 12 microseconds a block)."""


class Wire(NamedTuple):
    """What the kernel knows of a connection."""

    carried_bytes: int
    """that the other end's kernel has, since it began"""
    busy_us: int
    """with something under way, since it began"""
    unread_us: int
    """of that, while the other process did not read"""


class Packing:
    """Of one volume's copies to one peer, from the beginning of a return."""

    def __init__(self) -> None:
        self._pause = 0
        self._left = 0
        self._looks: deque[Wire] = deque(maxlen=LOOKS)
        self.spared_bytes = 0
        """Of what was sent: they did not have to cross the wire."""

    def tries(self, wire: Wire) -> bool:
        """Whether the next copy is to be packed. Asked once for each."""
        self._look(wire)
        if self._left:
            self._left -= 1
            return False
        return True

    def tried(self, size: int, packed: int, took_ns: int) -> bool:
        """`size` bytes became `packed`. Are they sent so? The work is done, so it does not matter whether it paid."""
        rate = self._bytes_per_s()
        cost_ns = took_ns * _BOTH_ENDS[0] // _BOTH_ENDS[1]
        if rate and (size - packed) * SECOND > cost_ns * rate:
            self._pause = 0
        else:
            self._pause = min(2 * self._pause + 1, PAUSE_MAX)
        self._left = self._pause
        if packed > size - size // SMALLER:
            return False
        self.spared_bytes += size - packed
        return True

    def _look(self, wire: Wire) -> None:
        if self._looks and any(now < before for now, before in zip(wire, self._looks[-1], strict=True)):
            self._looks.clear()  # another connection
        self._looks.append(wire)

    def _bytes_per_s(self) -> int:
        """That the link itself carries; 0: nothing is known yet. A receiver that is slow to read (its disk, its
        processor) lets every link look slow, and is helped by nothing that spares bytes: its time does not count."""
        first, last = self._looks[0], self._looks[-1]
        moving_us = last.busy_us - first.busy_us - (last.unread_us - first.unread_us)
        return (last.carried_bytes - first.carried_bytes) * _US_IN_SECOND // max(1, moving_us)
