"""One caller asks without end: the others are answered as before, and he is told that he asks too fast."""

from __future__ import annotations

import asyncio
import json

import pytest

from stoscore import subjects
from stoscore.bus import RequestContext
from stoscore.messages import DescribeReplica, Empty
from stoscore.nats_session import Msg
from tests.integration.conftest import BusOf
from tests.support.audit import told

pytestmark = pytest.mark.long

VOLUME = "0123456789abcdef" * 2
STATUS = subjects.node("n6", "status")
FLOOD = 3000
WORK_S = 0.02


async def test_a_flood_of_one_caller_keeps_nobody_else_waiting(bus_of: BusOf) -> None:
    node = await bus_of("node", "n6")
    loud, quiet = await bus_of("user", "loud/viewer"), await bus_of("user", "admin")
    served: dict[str, int] = {}
    at_once: dict[str, int] = {}
    most = 0

    async def status(request: DescribeReplica, context: RequestContext) -> Empty:
        nonlocal most
        caller = str(context.caller)
        served[caller] = served.get(caller, 0) + 1
        at_once[caller] = at_once.get(caller, 0) + 1
        most = max(most, at_once.get("viewer/loud", 0))
        await asyncio.sleep(WORK_S)
        at_once[caller] -= 1
        return Empty()

    await node.serve(STATUS, DescribeReplica, status)
    session = loud._session
    assert session is not None
    refusals = 0

    def heard(msg: Msg) -> None:
        nonlocal refusals
        refusals += json.loads(msg.data).get("error", {}).get("code") == "RESOURCE_EXHAUSTED"

    session.subscribe(f"{loud.me.inbox}.flood.>", "", heard)
    await session.round_trip()
    request = DescribeReplica(volume=VOLUME)
    payload = request.model_dump_json().encode()
    for number in range(FLOOD):
        session.publish(loud.addressed(STATUS), payload, f"{loud.me.inbox}.flood.{number}")
    for _ in range(20):
        # In turns, so each waits for a place and for none of the hundreds before it.
        await quiet.request(STATUS, request, Empty)
    async with asyncio.timeout(30):
        while refusals + served.get("viewer/loud", 0) < FLOOD:
            await asyncio.sleep(0.05)
    assert served["admin/admin"] == 20
    assert refusals > FLOOD / 2
    assert most <= 32
    event = await told(quiet, lambda event: event.who == "viewer/loud" and event.action == "node.status")
    assert (event.outcome, event.reporter) == ("refused", "n6")
    assert "faster" in event.reason
