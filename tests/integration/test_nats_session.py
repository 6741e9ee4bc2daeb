"""One connection on the client library: what it does not do by itself, against a real nats-server."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.errors import Code, StosError
from stoscore.messages import DescribeReplica, Empty
from stoscore.nats_session import Msg, Session
from tests.integration.conftest import BusOf
from tests.support.control_plane import ControlPlane

VOLUME = "0123456789abcdef" * 2
DESCRIBE = subjects.node("n1", "describe")
SAID = subjects.event("n1", "decision")


async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
    return Empty()


async def opened(plane: ControlPlane, kind: str, name: str) -> Session:
    identity = plane.identity(kind, name)
    inbox = f"{identity.inbox_prefix}.test"
    return await Session.open(identity, plane.nats_urls, name, inbox, lambda _: None)


async def say_raw(bus: Bus, data: bytes) -> None:
    """Past all checks of the library, as a hostile client would."""
    assert bus._session is not None
    await bus._session._client._send_command(data)
    await bus._session.round_trip()


@pytest.mark.parametrize(
    "data",
    [
        b"HPUB %s 8 8\r\nNATS/1.0\r\n",
        b"HPUB %s 4 4\r\nXXXX\r\n",
        b"HPUB %s 16 16\r\nNATS/1.0 \xff\xfe\xff\r\n\r\n\r\n",
        b"PUB %s _INBOX.user.admin.\xff\xfe 2\r\n{}\r\n",
    ],
)
async def test_what_can_not_be_read_costs_one_connection(bus_of: BusOf, data: bytes) -> None:
    """The server passes it on, and the library stops reading; it would notice that a quarter of a minute later."""
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    await node.serve(DESCRIBE, DescribeReplica, describe)
    session = node._session
    assert session is not None
    await say_raw(user, data % user.addressed(DESCRIBE).encode())
    async with asyncio.timeout(2):
        await session.lost
    assert await node.wait_connected(2.0)
    await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)


async def test_a_cancelled_round_trip_leaves_the_connection_whole(control_plane: ControlPlane) -> None:
    session = await opened(control_plane, "user", "admin")
    for turns in range(10):
        waiting = asyncio.create_task(session.round_trip())
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
    await session.round_trip()
    await asyncio.sleep(0.1)
    assert session.alive
    await session.close()
    assert await session.lost == "closed"


async def test_what_was_accepted_is_sent_before_the_end(control_plane: ControlPlane) -> None:
    heard: list[Msg] = []
    listener, speaker = await opened(control_plane, "user", "admin"), await opened(control_plane, "node", "n1")
    listener.subscribe(SAID, "", heard.append)
    await listener.round_trip()
    for number in range(5000):
        assert speaker.publish(SAID, b"%d" % number)
    await speaker.close()
    assert not speaker.publish(SAID, b"late")
    async with asyncio.timeout(5):
        while len(heard) < 5000:
            await asyncio.sleep(0.01)
    assert [int(msg.data) for msg in heard] == list(range(5000))
    await listener.close()


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0", "a\tb", "a\n"])
async def test_a_subject_can_not_break_out_of_its_line(control_plane: ControlPlane, subject: str) -> None:
    session = await opened(control_plane, "user", "admin")
    with pytest.raises(StosError) as caught:
        session.publish(subject, b"")
    assert caught.value.code is Code.INVALID_ARGUMENT
    if subject:
        with pytest.raises(StosError, match="no subject"):
            session.publish("a", b"", subject)
    await session.close()


async def test_a_header_can_not_break_out_of_its_line(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    heard: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    await user.subscribe(SAID, lambda _, __, headers: heard.put_nowait(headers))
    assert node._session is not None
    assert node._session.publish(SAID, b"", headers={"K": "v\r\nX: y"})
    async with asyncio.timeout(5):
        assert list(await heard.get()) == ["K"]


async def test_a_server_that_dies_or_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its death is noticed at once, also under load; a close does not wait for one that does not answer."""
    plane = ControlPlane(tmp_path)
    try:
        for hangs in (False, True):
            await asyncio.to_thread(plane.nats.start)
            session = await opened(plane, "node", "n1")
            if hangs:
                os.kill(plane.nats.server_pid, signal.SIGSTOP)
            else:
                await asyncio.to_thread(plane.nats.kill)
            for _ in range(1000):
                session.publish(SAID, b"x" * 4000)
            async with asyncio.timeout(6):
                await (session.close() if hangs else session.lost)
            await asyncio.to_thread(plane.nats.kill)
            await session.close()
    finally:
        plane.stop()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
