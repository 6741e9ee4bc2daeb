"""How much room there is for volumes of one kind: the largest one that would be placed, and all of them together. Pure.

Asked of the plan itself, so that what is told is what a request would get: a policy that refuses a size counts without
having to know about this. Volumes are thin: room is what may still be promised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.placement import plan
from services.placement.policies import Ask, Policy
from stoscore.limits import VOLUME_BYTES_MAX
from stoscore.messages import Bid, Capacity, CapacityRequest, RankRequest
from stoscore.units import MIB


def room(bids: Sequence[Bid], request: CapacityRequest, policies: Sequence[Policy]) -> Capacity:
    """Nothing at all where there are too few nodes."""

    def placed(mib: int) -> bool:
        ranking = plan.explain(bids, _as_rank(request, mib * MIB), policies, instance="")
        return len(ranking.chosen) == request.copies + request.witnesses

    def fits(bid: Bid, mib: int) -> bool:
        return plan.refusal(bid, Ask(_as_rank(request, mib * MIB), "data", ()), policies) is None

    largest = _largest(placed)
    if not largest:
        return Capacity(largest_bytes=0, available_bytes=0, bids=len(bids))
    shares: dict[str, int] = {}
    for bid in {bid.node: bid for bid in bids}.values():
        place = bid.zone if request.apart == "zone" and bid.zone else f"node {bid.node}"
        shares[place] = shares.get(place, 0) + _largest(lambda mib, bid=bid: fits(bid, mib))  # type: ignore[misc]
    available = max(together(list(shares.values()), request.copies), largest)
    return Capacity(largest_bytes=largest * MIB, available_bytes=available * MIB, bids=len(bids))


def together(rooms: Sequence[int], copies: int) -> int:
    """How much can be kept in that many copies, each in another of these rooms.

    No room holds two copies of anything, so whatever is kept fills at most `copies - j` times itself outside of any j
    rooms; the largest j are the ones that bind."""
    ordered = sorted(rooms, reverse=True)
    if len(ordered) < copies:
        return 0
    return min(sum(ordered[without:]) // (copies - without) for without in range(copies))


def _largest(possible: Callable[[int], bool]) -> int:
    """The largest number of MiB that is possible; 0 when one is not."""
    low, high = 0, VOLUME_BYTES_MAX // MIB
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if possible(middle) else (low, middle - 1)
    return low


def _as_rank(request: CapacityRequest, size_bytes: int) -> RankRequest:
    return RankRequest(
        volume="0" * 32,
        name="capacity",
        size_bytes=size_bytes,
        copies=request.copies,
        witnesses=request.witnesses,
        zones=request.zones,
        apart=request.apart,
    )
