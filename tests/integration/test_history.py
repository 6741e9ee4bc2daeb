"""Past events, read from a real stream in pages."""

from __future__ import annotations

import asyncio
import time

from stoscore import history, subjects
from stoscore.bus import Bus
from stoscore.messages import DecisionEvent
from tests.integration.conftest import BusOf

VOLUME = "ab" * 16


async def tell(bus: Bus, node: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        event = DecisionEvent(volume=VOLUME, name="v", node=node, kind="grant", epoch=number, version=1)
        assert bus.send(subjects.event(node, "decision"), event)


async def read(bus: Bus, **given: object) -> list[tuple[str, int]]:
    kept = [item async for item in history.read(bus, "decision", **given)]  # type: ignore[arg-type]
    events = [(item, DecisionEvent.model_validate_json(item.body)) for item in kept]
    return [(item.reporter, event.epoch) for item, event in events if event.volume == VOLUME]


async def until(bus: Bus, count: int, **given: object) -> list[tuple[str, int]]:
    deadline = time.monotonic() + 30
    while len(found := await read(bus, **given)) < count:
        assert time.monotonic() < deadline, found[-3:]
    return found


async def test_all_of_them_come_in_order_though_they_fill_more_than_a_page(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "h1"), await bus_of("user", "reader")
    assert await read(user, reporter="h1") == []
    await tell(node, "h1", 2 * history.PAGE + 7)
    found = await until(user, 2 * history.PAGE + 7, reporter="h1")
    assert found == [("h1", number) for number in range(2 * history.PAGE + 7)]


async def test_only_what_came_since_and_from_whom(bus_of: BusOf) -> None:
    one, two = await bus_of("node", "h2"), await bus_of("node", "h3")
    user = await bus_of("user", "reader")
    await tell(one, "h2", 3)
    await until(user, 3, reporter="h2")
    kept = [item async for item in history.read(user, "decision", reporter="h2")]
    since = kept[-1].at_unix_ms + 1
    while time.time() * 1000 <= since + 5:
        await asyncio.sleep(0.005)
    await tell(one, "h2", 2, first=10)
    await tell(two, "h3", 1)
    assert await until(user, 2, reporter="h2", since_unix_ms=since) == [("h2", 10), ("h2", 11)]
    assert await until(user, 1, reporter="h3") == [("h3", 0)]
