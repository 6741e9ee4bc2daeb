"""Gathering bids: ask every node at once, wait a fixed while, take who answered.

There is no list of nodes to wait for, on purpose: a placement instance keeps nothing between requests that an answer
depends on. It does remember how many answered lately, so that it need not sit out the while when as many have answered
again; a node that came since is heard in the next thorough round, seconds later. A busy node may miss the short wait,
so a request that can't be met is tried once more with a longer one before it is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from stoscore import subjects
from stoscore.access import Caller
from stoscore.bus import Bus
from stoscore.messages import Bid, BidRequest

THOROUGH_EVERY_S = 5.0


class Bidding:
    """One instance's rounds of bids."""

    def __init__(self, bus: Bus, clock: Callable[[], float] = time.monotonic):
        self._bus = bus
        self._clock = clock
        self._answering = 0
        """Nodes in the latest round that was waited for to its end."""
        self._thorough_at_s = 0.0

    async def gather(self, size_bytes: int, *, wait_s: float, thorough: bool = False) -> list[Bid]:
        """Every bid that came within `wait_s` seconds, in order of arrival; each node bids for itself alone. Unless it
        is to be thorough, it ends as soon as as many have come as did lately."""
        now_s = self._clock()
        enough = None if thorough or now_s >= self._thorough_at_s else self._answering or None
        request = BidRequest(size_bytes=size_bytes)
        found = await self._bus.scatter(subjects.BID, request, Bid, timeout_s=wait_s, enough=enough, valid=_is_own)
        if enough is None or len(found) < enough:
            self._answering, self._thorough_at_s = len(found), self._clock() + THOROUGH_EVERY_S
        return found


def _is_own(bid: Bid, caller: Caller) -> bool:
    return bid.node == caller.name
