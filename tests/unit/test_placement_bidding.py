"""How long bids are waited for: no longer than until as many have come as lately, and now and then to the end."""

from __future__ import annotations

from typing import Any

from services.placement.bids import THOROUGH_EVERY_S, Bidding
from stoscore.messages import Bid
from tests.support.bids import bid


class Nodes:
    """A bus on which these nodes answer, and its clock."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.enough: list[int | None] = []
        self.now_s = 100.0

    async def scatter(self, *_: Any, enough: int | None, **__: Any) -> list[Bid]:
        self.enough.append(enough)
        return [bid(name) for name in self.names[:enough]]

    def clock(self) -> float:
        return self.now_s


async def heard(bidding: Bidding, *, thorough: bool = False) -> list[str]:
    return [offer.node for offer in await bidding.gather(1, wait_s=0.25, thorough=thorough)]


async def test_as_many_as_lately_are_enough() -> None:
    nodes = Nodes("a", "b", "c")
    bidding = Bidding(nodes, nodes.clock)  # type: ignore[arg-type]
    for _ in range(3):
        assert await heard(bidding) == ["a", "b", "c"]
    assert nodes.enough == [None, 3, 3]


async def test_a_node_that_came_is_heard_in_the_next_thorough_round() -> None:
    nodes = Nodes("a")
    bidding = Bidding(nodes, nodes.clock)  # type: ignore[arg-type]
    assert await heard(bidding) == ["a"]
    nodes.names.append("b")
    assert await heard(bidding) == ["a"]
    assert await heard(bidding, thorough=True) == ["a", "b"]
    nodes.names.append("c")
    nodes.now_s += THOROUGH_EVERY_S
    assert await heard(bidding) == ["a", "b", "c"]


async def test_a_node_that_went_is_waited_for_once() -> None:
    nodes = Nodes("a", "b")
    bidding = Bidding(nodes, nodes.clock)  # type: ignore[arg-type]
    await heard(bidding)
    nodes.names.remove("a")
    assert await heard(bidding) == ["b"]
    assert await heard(bidding) == ["b"]
    assert nodes.enough == [None, 2, 1]


async def test_nobody_is_never_enough() -> None:
    nodes = Nodes()
    bidding = Bidding(nodes, nodes.clock)  # type: ignore[arg-type]
    assert await heard(bidding) == []
    nodes.names.append("a")
    assert await heard(bidding) == ["a"]
