"""Past events out of their streams: whole, in order, from a time on, for who may look."""

from __future__ import annotations

import asyncio

import pytest

from stoscore import history, subjects
from stoscore.bus import Bus
from stoscore.errors import Code, StosError
from stoscore.messages import HistoryPage, HistoryRequest, KeptEvent
from tests.integration.conftest import BusOf

MORE_THAN_A_PAGE = 450


async def kept(bus: Bus, reporter: str, since_unix_ms: int = 0) -> list[KeptEvent]:
    return [event async for event in history.read(bus, "decision", reporter=reporter, since_unix_ms=since_unix_ms)]


async def tell(bus: Bus, reporter: str, first: int, last: int) -> None:
    for number in range(first, last):
        assert bus.send(subjects.event(reporter, "decision"), b'{"number":%d}' % number)
    await bus.flush()


async def test_all_of_them_in_order_and_from_a_time_on(bus_of: BusOf) -> None:
    node, viewer = await bus_of("node", "h1"), await bus_of("user", "eve/viewer")
    await tell(node, "h1", 0, MORE_THAN_A_PAGE)
    async with asyncio.timeout(20):
        while len(found := await kept(viewer, "h1")) < MORE_THAN_A_PAGE:
            await asyncio.sleep(0.1)
    assert [event.body for event in found] == [f'{{"number":{number}}}' for number in range(MORE_THAN_A_PAGE)]
    assert {event.reporter for event in found} == {"h1"}
    assert [event.number for event in found] == sorted({event.number for event in found})
    middle = found[len(found) // 2].at_unix_ms
    later = await kept(viewer, "h1", middle)
    assert later == [event for event in found if event.at_unix_ms >= middle]
    assert await kept(viewer, "h1", found[-1].at_unix_ms + 60_000) == []
    assert await kept(viewer, "nobody") == []


async def test_who_may_look(bus_of: BusOf) -> None:
    node = await bus_of("node", "h1")
    with pytest.raises(StosError) as caught:
        await kept(node, "h1")
    assert caught.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize("reporter", ["*", ">", "a.b", "h1.decision", "A", "a b"])
async def test_a_reporter_is_one_word(bus_of: BusOf, reporter: str) -> None:
    admin = await bus_of("user", "admin")
    request = HistoryRequest.model_construct(kind="decision", reporter=reporter, since_unix_ms=0, after=0, v=1)
    with pytest.raises(StosError) as caught:
        await admin.request(subjects.history("read"), request, HistoryPage)
    assert caught.value.code is Code.INVALID_ARGUMENT
