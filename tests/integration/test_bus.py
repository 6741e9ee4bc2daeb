"""The bus over a real nats-server: answers and errors, bad messages, gathering, and a server that goes away."""

from __future__ import annotations

import asyncio
import gc
import json
from functools import partial
from pathlib import Path

import pytest

from stoscore import subjects
from stoscore.access import payload_max
from stoscore.bus import Bus, RequestContext
from stoscore.envelope import encode_request
from stoscore.errors import Code, StosError, precondition
from stoscore.messages import Bid, BidRequest, DescribeReplica, Empty, Message, ReplicaCreated
from stoscore.nats_session import Session
from stoscore.telemetry import current_traceparent, span
from tests.integration.conftest import BusOf
from tests.support.control_plane import ControlPlane

VOLUME = "0123456789abcdef" * 2
DESCRIBE = subjects.node("n1", "describe")


async def created(request: Message, context: RequestContext) -> ReplicaCreated:
    return ReplicaCreated(node="n1", incarnation="0" * 16)


async def test_a_request_is_answered(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    seen: list[RequestContext] = []

    async def describe(request: DescribeReplica, context: RequestContext) -> ReplicaCreated:
        assert request.volume == VOLUME
        seen.append(context)
        return ReplicaCreated(node="n1", incarnation="0" * 16)

    await node.serve(DESCRIBE, DescribeReplica, describe)
    with span("test") as current:
        answer = await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), ReplicaCreated)
    assert answer.node == "n1"
    (context,) = seen
    assert str(context.caller) == "admin/admin"
    assert context.subject == DESCRIBE
    assert context.traceparent[3:35] == current.trace_id
    assert len(context.request_id) == 16


async def test_the_trace_goes_on_in_the_handler(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    traces: list[str] = []

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        traces.append(current_traceparent())
        return Empty()

    await node.serve(DESCRIBE, DescribeReplica, describe)
    with span("outer") as outer:
        await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
    assert traces[0][3:35] == outer.trace_id


async def test_an_error_arrives_as_it_was_raised(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        raise StosError(Code.NOT_PRIMARY, "not me", next_step="ask n2", details={"hint": "n2"})

    await node.serve(DESCRIBE, DescribeReplica, describe)
    with pytest.raises(StosError, match="not me") as caught:
        await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
    assert caught.value.code is Code.NOT_PRIMARY
    assert caught.value.next_step == "ask n2"
    assert caught.value.details == {"hint": "n2"}


@pytest.mark.parametrize("renewing", [False, True])
async def test_what_is_served_while_a_connection_is_made_is_heard_there(
    bus_of: BusOf, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, renewing: bool
) -> None:
    """The connection knew the subscriptions of the moment before, and nobody told it of this one: a node that was
    started beside its NATS server was up, and answered nothing until its next connection."""
    user = await bus_of("user", "admin")
    node = await Bus.connect(control_plane.identity("node", "n1"), control_plane.nats_urls, name="test", wait=renewing)
    nearly, go_on = asyncio.Event(), asyncio.Event()
    real = Session.round_trip

    async def round_trip(self: Session) -> None:
        if not nearly.is_set() and self.inbox.startswith(node.identity.inbox_prefix):
            nearly.set()
            await go_on.wait()
        await real(self)

    monkeypatch.setattr(Session, "round_trip", round_trip)
    try:
        renewal = asyncio.create_task(node.renew()) if renewing else None
        await asyncio.wait_for(nearly.wait(), 30)
        await node.serve(DESCRIBE, DescribeReplica, created)
        go_on.set()
        if renewal is not None:
            await renewal
        assert await node.wait_connected(30)
        answer = await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), ReplicaCreated)
        assert answer.node == "n1"
    finally:
        await node.close()


async def test_a_bug_in_a_handler_does_not_end_the_service(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    calls = 0

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError("secret detail")
        return Empty()

    await node.serve(DESCRIBE, DescribeReplica, describe)
    with pytest.raises(StosError) as caught:
        await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
    assert caught.value.code is Code.INTERNAL
    assert "secret" not in caught.value.message
    await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", Code.INVALID_ARGUMENT),
        (b"no json", Code.INVALID_ARGUMENT),
        (b"\xff\xfe\x00", Code.INVALID_ARGUMENT),
        (b"[]", Code.INVALID_ARGUMENT),
        (b"null", Code.INVALID_ARGUMENT),
        (b"[" * 60_000, Code.INVALID_ARGUMENT),
        (json.dumps({"v": 1, "volume": VOLUME, "more": 1}).encode(), Code.INVALID_ARGUMENT),
        (json.dumps({"v": 1, "volume": 7}).encode(), Code.INVALID_ARGUMENT),
        (json.dumps({"v": 1, "volume": "../../etc"}).encode(), Code.INVALID_ARGUMENT),
        (json.dumps({"v": 1}).encode(), Code.INVALID_ARGUMENT),
        (json.dumps({"v": 2, "volume": VOLUME}).encode(), Code.UNSUPPORTED_VERSION),
        (json.dumps({"v": "1", "volume": VOLUME}).encode(), Code.UNSUPPORTED_VERSION),
    ],
)
async def test_a_bad_message_is_answered_and_changes_nothing(bus_of: BusOf, payload: bytes, code: Code) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    handled: list[Message] = []

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        handled.append(request)
        return Empty()

    await node.serve(DESCRIBE, DescribeReplica, describe)
    answer = json.loads((await user.call(user.addressed(DESCRIBE), payload)).data)
    assert answer["ok"] is False
    assert answer["error"]["code"] == code.value
    assert handled == []
    await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)  # the service lives on


async def test_an_answer_is_no_request(bus_of: BusOf) -> None:
    """A reply subject is chosen by who asks; were answers taken for requests, it would reach anybody."""
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    await node.serve(DESCRIBE, DescribeReplica, created)
    answer = json.loads((await user.call(user.addressed(DESCRIBE), b'{"v":1,"ok":true,"result":{}}')).data)
    assert answer["error"]["code"] == "INVALID_ARGUMENT"


async def test_nobody_there(bus_of: BusOf) -> None:
    user = await bus_of("user", "admin")
    with pytest.raises(StosError, match="nobody answers") as caught:
        await user.request(subjects.node("n9", "describe"), DescribeReplica(volume=VOLUME), Empty)
    assert caught.value.code is Code.UNAVAILABLE


def _cancel(task: asyncio.Task[Empty], _: object) -> None:
    task.cancel()


async def test_an_asker_who_goes_in_the_moment_of_a_failure_leaves_nothing_behind(bus_of: BusOf) -> None:
    """Ctrl-C ends a command that asks many at once, some of whom are not there."""
    user = await bus_of("user", "admin")
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    asking = asyncio.create_task(user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty))
    await asyncio.sleep(0)
    (pending,) = user._pending.values()
    pending.done.add_done_callback(partial(_cancel, asking))
    await asyncio.wait([asking])
    assert asking.cancelled()
    del pending, asking
    gc.collect()
    assert complaints == []


async def test_a_late_answer_is_a_missed_deadline(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        await asyncio.sleep(1.0)
        return Empty()

    await node.serve(DESCRIBE, DescribeReplica, describe)
    with pytest.raises(StosError) as caught:
        await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty, timeout_s=0.1)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_a_request_that_arrives_twice_is_worked_on_once(bus_of: BusOf) -> None:
    """The answer goes to where it was asked last, also when it was ready before."""
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    handled = 0

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        nonlocal handled
        handled += 1
        await asyncio.sleep(0.1)
        return Empty()

    await node.serve(DESCRIBE, DescribeReplica, describe)
    request = encode_request(DescribeReplica(volume=VOLUME))
    headers = {"Stos-Request-Id": "0123456789abcdef"}
    early = asyncio.create_task(user.call(user.addressed(DESCRIBE), request, headers=headers, timeout_s=0.5))
    await asyncio.sleep(0.02)
    assert (await user.call(user.addressed(DESCRIBE), request, headers=headers)).data
    assert (await user.call(user.addressed(DESCRIBE), request, headers=headers)).data
    assert handled == 1
    with pytest.raises(StosError):
        await early  # asked again meanwhile: it was told elsewhere


async def test_a_lost_answer_is_asked_for_again(bus_of: BusOf) -> None:
    node, user = await bus_of("node", "n1"), await bus_of("user", "admin")
    handled = 0

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        nonlocal handled
        handled += 1
        return Empty()

    await node.serve(DESCRIBE, DescribeReplica, describe)
    session = node._session
    assert session is not None
    publish, lost = session.publish, 0

    def losing(subject: str, data: bytes, *more: object) -> bool:
        nonlocal lost
        lost += 1
        return True if lost == 1 else publish(subject, data)

    session.publish = losing  # type: ignore[method-assign, assignment]
    await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
    assert (lost, handled) == (2, 1)


def bid(node: str) -> Bid:
    return Bid(
        node=node,
        zone="z",
        address="127.0.0.1:1",
        accepts_copies=True,
        capacity_bytes=1,
        provisioned_bytes=0,
        used_bytes=0,
        free_disk_bytes=1,
        replicas=0,
        primaries=0,
    )


async def test_scatter_gathers_the_good_answers(bus_of: BusOf) -> None:
    placement = await bus_of("svc", "placement-1")
    names = ["n1", "n2", "n3"]
    for name in names:
        node = await bus_of("node", name)

        async def offer(request: BidRequest, context: RequestContext, name: str = name) -> Bid:
            if name == "n2":
                raise precondition("no space")
            return bid(name)

        await node.serve(subjects.BID, BidRequest, offer)
    request = BidRequest(size_bytes=4096)
    bids = await placement.scatter(subjects.BID, request, Bid, timeout_s=0.3)
    assert sorted(item.node for item in bids) == ["n1", "n3"]
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await placement.scatter(subjects.BID, request, Bid, timeout_s=5.0, enough=3)
    assert loop.time() - begin < 2.0


async def test_scatter_to_nobody_is_empty(bus_of: BusOf) -> None:
    placement = await bus_of("svc", "placement-1")
    assert await placement.scatter(subjects.BID, BidRequest(size_bytes=1), Bid, timeout_s=2.0) == []


async def test_a_queue_group_shares_the_work(bus_of: BusOf) -> None:
    user = await bus_of("user", "admin")
    counts = {"placement-1": 0, "placement-2": 0}
    for name in counts:
        instance = await bus_of("svc", name)

        async def rank(request: Empty, context: RequestContext, name: str = name) -> Empty:
            counts[name] += 1
            return Empty()

        await instance.serve(subjects.placement("rank"), Empty, rank, queue="placement")
    await asyncio.gather(*(user.request(subjects.placement("rank"), Empty(), Empty) for _ in range(40)))
    assert sum(counts.values()) == 40
    assert min(counts.values()) > 0


async def test_a_message_that_is_too_large_is_refused_here(bus_of: BusOf) -> None:
    user = await bus_of("user", "admin")
    with pytest.raises(StosError, match="too large"):
        await user.call(user.addressed(DESCRIBE), b"x" * (payload_max("admin") + 1))
    assert user.connected


async def test_without_a_server_everything_says_so_at_once(control_plane: ControlPlane) -> None:
    bus = await Bus.connect(control_plane.identity("user", "admin"), ["tls://127.0.0.1:1"], name="test")
    try:
        assert not bus.connected
        assert not await bus.publish(subjects.event("admin", "x"), b"{}")
        with pytest.raises(StosError, match="not connected") as caught:
            await bus.request(DESCRIBE, Empty(), Empty)
        assert caught.value.code is Code.UNAVAILABLE
    finally:
        await bus.close()


async def test_services_return_with_the_server(tmp_path: Path) -> None:
    """Services started before the server serve when it comes, and again after it was killed; a request that is
    under way when it dies fails at once."""
    plane = ControlPlane(tmp_path)
    buses: list[Bus] = []
    try:
        for kind, name in (("node", "n1"), ("user", "admin")):
            buses.append(await Bus.connect(plane.identity(kind, name), plane.nats_urls, name=name))
        node, user = buses
        slow = asyncio.Event()

        async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
            slow.set()
            await asyncio.sleep(30 if request.volume != VOLUME else 0)
            return Empty()

        await node.serve(DESCRIBE, DescribeReplica, describe)
        assert not node.connected
        for _ in range(2):
            await asyncio.to_thread(plane.nats.start)
            assert await node.wait_connected(5.0)
            assert await user.wait_connected(5.0)
            await user.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
            slow.clear()
            waiting = asyncio.create_task(user.request(DESCRIBE, DescribeReplica(volume="f" * 32), Empty, timeout_s=30))
            await slow.wait()
            await asyncio.to_thread(plane.nats.kill)
            with pytest.raises(StosError) as caught:
                await asyncio.wait_for(waiting, 5.0)
            assert caught.value.code is Code.UNAVAILABLE
    finally:
        for bus in buses:
            await bus.close()
        plane.stop()


async def test_what_fails_on_a_new_connection_is_tried_again_while_that_lasts(bus_of: BusOf) -> None:
    """Whom it asks may come up a moment after the server: without this a node that starts first is never known."""
    node, admin = await bus_of("node", "n1"), await bus_of("user", "admin")
    tried, answered = 0, asyncio.Event()

    async def ask() -> None:
        nonlocal tried
        tried += 1
        await admin.request(DESCRIBE, DescribeReplica(volume=VOLUME), Empty)
        answered.set()

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        return Empty()

    admin.whenever_connected(ask)
    async with asyncio.timeout(10):
        while not tried:
            await asyncio.sleep(0.01)
        await node.serve(DESCRIBE, DescribeReplica, describe)
        await answered.wait()
    done = tried
    answered.clear()
    await admin.renew()
    async with asyncio.timeout(10):
        await answered.wait()
    assert tried == done + 1
