"""Gathering bids: ask every node at once, wait a fixed while, take who answered.

There is no list of nodes to wait for, on purpose: a placement instance keeps nothing between requests. A busy
node may miss the short wait, so a request that can't be met is tried once more with a longer one before it
is refused.
"""

from __future__ import annotations

from stoscore import subjects
from stoscore.access import Caller
from stoscore.bus import Bus
from stoscore.messages import Bid, BidRequest


async def gather(bus: Bus, size_bytes: int, *, wait_s: float) -> list[Bid]:
    """Every bid that came within `wait_s` seconds, in order of arrival; each node bids for itself alone."""
    request = BidRequest(size_bytes=size_bytes)
    return await bus.scatter(subjects.BID, request, Bid, timeout_s=wait_s, valid=_is_own)


def _is_own(bid: Bid, caller: Caller) -> bool:
    return bid.node == caller.name
