"""Bids and requests for the placement tests, with everything that a test does not care about filled in."""

from __future__ import annotations

from stoscore.messages import Bid, RankRequest
from stoscore.units import GIB

VOLUME = "0123456789abcdef0123456789abcdef"


def bid(node: str, **changes: object) -> Bid:
    """A healthy, empty node of 100 GiB in a zone of its own."""
    fields: dict[str, object] = {
        "node": node,
        "zone": f"zone-{node}",
        "address": "127.0.0.1:7000",
        "accepts_copies": True,
        "capacity_bytes": 100 * GIB,
        "provisioned_bytes": 0,
        "used_bytes": 0,
        "free_disk_bytes": 100 * GIB,
        "replicas": 0,
        "primaries": 0,
    }
    return Bid.model_validate(fields | changes)


def request(copies: int = 3, **changes: object) -> RankRequest:
    fields: dict[str, object] = {"volume": VOLUME, "name": "data", "size_bytes": GIB, "copies": copies}
    return RankRequest.model_validate(fields | changes)
