"""A stolen identity against the others, over a real server: what it can't say itself, it can't have said for it.

Each of these tricks worked against permissions that looked complete: the server or JetStream was talked into
publishing where the thief may not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from services.nats.catalogue import KEYS
from services.placement.bids import Bidding
from stoscore import access, bus_answering, subjects
from stoscore.access import addressed
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError
from stoscore.jetstream import BUCKET_STREAM
from stoscore.messages import CatalogueEntry, DescribeReplica, Empty, NodeEntry
from stoscore.nats_session import Session
from tests.integration.conftest import BusOf
from tests.support.audit import told
from tests.support.bids import bid
from tests.support.control_plane import ControlPlane

VOLUME = "0123456789abcdef" * 2
ORDER = subjects.node("n2", "describe")
FORGED = f"{ORDER}.by.admin.admin"
REQUEST = b'{"v":1,"volume":"%s"}' % VOLUME.encode()


class Victim:
    """n2: what it is asked, and which votes it hears."""

    def __init__(self, bus: Bus):
        self.bus = bus
        self.asked: list[str] = []
        self.votes: list[tuple[str, bytes]] = []

    async def listen(self) -> None:
        async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
            self.asked.append(str(context.caller))
            return Empty()

        await self.bus.serve(ORDER, DescribeReplica, describe)
        await self.bus.subscribe(
            subjects.brain(VOLUME, "*"), lambda subject, data, _: self.votes.append((subject, data))
        )


@pytest.fixture
async def victim(bus_of: BusOf) -> AsyncIterator[Victim]:
    victim = Victim(await bus_of("node", "n2"))
    await victim.listen()
    yield victim


async def settle(*buses: Bus) -> None:
    """All that was said has arrived, and what the server made of it too."""
    for _ in range(3):
        for bus in buses:
            await bus.flush()
        await asyncio.sleep(0.05)


def session_of(bus: Bus) -> Session:
    assert bus._session is not None
    return bus._session


async def test_who_talks_to_himself_may_not_answer_in_other_names(bus_of: BusOf, victim: Victim) -> None:
    """With NATS' response permissions he may: they let him publish to the reply subject of whatever he hears."""
    thief, admin = await bus_of("node", "n1"), await bus_of("user", "admin")
    session = session_of(thief)
    await thief.subscribe(subjects.brain(VOLUME, "*"), lambda *_: None)
    for target in (FORGED, subjects.brain(VOLUME, "n3")):
        session.publish(subjects.brain(VOLUME, "n1"), b"hello, me", target)
        await settle(thief)
        session.publish(target, REQUEST, "_INBOX.user.admin.session.token")
    await settle(thief, victim.bus)
    assert victim.asked == []
    assert {subject for subject, _ in victim.votes} == {subjects.brain(VOLUME, "n1")}
    await told(admin, lambda event: event.action == "nats.publish" and event.outcome == "refused")


async def test_an_event_is_not_acknowledged_to_anybody(bus_of: BusOf, victim: Victim) -> None:
    """JetStream would send its acknowledgement to any reply subject, such as another's vote or a catalogue entry."""
    thief, admin = await bus_of("node", "n1"), await bus_of("user", "admin")
    name = "acknowledged"
    entry = CatalogueEntry(volume="a" * 32, name=name, size_bytes=4096, replicas=0, nodes=["n1"])
    await Catalogue(admin).create(entry)
    for target in (subjects.brain(VOLUME, "n3"), FORGED, f"{KEYS}.name.{name}"):
        for kind in ("audit", "decision"):
            session_of(thief).publish(subjects.event("n1", kind), b"{}", target)
    await settle(thief, victim.bus)
    assert victim.votes == []
    assert await Catalogue(admin).by_name(name) == entry


async def test_a_trace_goes_nowhere(bus_of: BusOf, victim: Victim) -> None:
    """A message may ask the server to publish a trace of its way on a subject of its choice."""
    thief = await bus_of("node", "n1")
    for target in (subjects.brain(VOLUME, "n3"), FORGED):
        headers = {"Nats-Trace-Dest": target}
        session_of(thief).publish(subjects.brain(VOLUME, "n1"), b"traced", headers=headers)
    await settle(thief, victim.bus)
    assert {subject for subject, _ in victim.votes} <= {subjects.brain(VOLUME, "n1")}
    assert victim.asked == []


async def test_an_answer_of_jetstream_is_no_request_and_no_vote(bus_of: BusOf, victim: Victim) -> None:
    """Only svc/nats may make JetStream say anything; should another be able to, the victim does not believe it."""
    keeper = await bus_of("svc", "nats-2")
    await keeper.call(f"{KEYS}.node.n1", REQUEST)
    question = json.dumps({"last_by_subj": f"{KEYS}.node.n1"}).encode()
    session_of(keeper).publish(f"$JS.API.STREAM.MSG.GET.{BUCKET_STREAM}", question, FORGED)
    session_of(keeper).publish(f"{KEYS}.node.n1", REQUEST, FORGED)
    await settle(keeper, victim.bus)
    assert victim.asked == []
    admin = await bus_of("user", "admin")
    await told(admin, lambda event: event.reporter == "n2" and "reply subject" in event.reason)
    await admin.request(ORDER, DescribeReplica(volume=VOLUME), Empty)
    assert victim.asked == ["admin/admin"]


async def test_nobody_rolls_up_the_bucket(bus_of: BusOf) -> None:
    """Who may write one key of a bucket that takes such orders can wipe all of it."""
    keeper, admin = await bus_of("svc", "nats-2"), await bus_of("user", "admin")
    entry = CatalogueEntry(volume="b" * 32, name="kept", size_bytes=4096, replicas=0, nodes=["n1"])
    await Catalogue(admin).create(entry)
    for order in ("all", "sub"):
        await keeper.call(f"{KEYS}.node.n1", b"{}", headers={"Nats-Rollup": order})
    assert await Catalogue(admin).by_name("kept") == entry


async def test_another_does_not_answer_for_the_one_who_was_asked(bus_of: BusOf, victim: Victim) -> None:
    """n1 knows where n2's answer is awaited. It can't answer as n2, and its own answer does not count."""
    thief, admin = await bus_of("node", "n1"), await bus_of("user", "admin")
    awaited: list[str] = []
    thief_session = session_of(thief)

    async def slow(request: DescribeReplica, context: RequestContext) -> Empty:
        (token,) = admin._pending
        awaited.append(f"{session_of(admin).inbox}.{token}")
        for reply in (awaited[0], addressed(awaited[0], thief.me), addressed(awaited[0], victim.bus.me)):
            thief_session.publish(reply, b'{"v":1,"ok":true,"result":{"v":1,"node":"n1","incarnation":"forged"}}')
        await settle(thief)
        return Empty()

    await victim.bus.serve(subjects.node("n2", "status"), DescribeReplica, slow)
    assert await admin.request(subjects.node("n2", "status"), DescribeReplica(volume=VOLUME), Empty) == Empty()
    assert awaited


async def test_a_node_bids_once_and_for_itself(bus_of: BusOf) -> None:
    placement, thief = await bus_of("svc", "placement-1"), await bus_of("node", "n1")
    session = session_of(thief)
    replies: list[str] = []

    def many(msg: object) -> None:
        reply = str(msg.reply)  # type: ignore[attr-defined]
        replies.append(reply)
        for name in ("n1", "n2", "n1"):
            answer = b'{"v":1,"ok":true,"result":' + bid(name).model_dump_json().encode() + b"}"
            session.publish(addressed(reply, thief.me), answer)

    session.subscribe(f"{subjects.BID}.by.*.*", "", many)
    await session.round_trip()
    bids = await Bidding(placement).gather(4096, wait_s=0.5)
    assert [item.node for item in bids] == ["n1"]
    assert replies


async def test_a_request_that_wants_its_answer_elsewhere_is_refused(bus_of: BusOf, victim: Victim) -> None:
    """Or n2's answer would be n2's word on a subject that the asker may not publish to."""
    viewer, admin = await bus_of("user", "eve/viewer"), await bus_of("user", "admin")
    for reply in (
        "",
        FORGED,
        "_INBOX.user.admin.session.token",
        f"{viewer.me.inbox}.short",
        f"{viewer.me.inbox}.a.b.c",
    ):
        session_of(viewer).publish(viewer.addressed(ORDER), REQUEST, reply)
    await settle(viewer, victim.bus)
    assert victim.asked == []
    event = await told(admin, lambda event: event.who == "unproven viewer/eve" and event.reporter == "n2")
    assert event.action == "node.describe"
    await viewer.request(ORDER, DescribeReplica(volume=VOLUME), Empty)
    assert victim.asked == ["viewer/eve"]


async def test_a_node_moves_no_other_node(bus_of: BusOf) -> None:
    thief, admin = await bus_of("node", "n1"), await bus_of("user", "admin")
    await Catalogue(await bus_of("node", "n2")).put_node(NodeEntry(node="n2", zone="z", address="10.0.0.2:7000"))
    with pytest.raises(StosError) as caught:
        await Catalogue(thief).put_node(NodeEntry(node="n2", zone="z", address="6.6.6.6:7000"))
    assert caught.value.code is Code.PERMISSION_DENIED
    assert {entry.node: entry.address for entry in await Catalogue(admin).nodes()}["n2"] == "10.0.0.2:7000"
    event = await told(admin, lambda event: event.action == "catalogue.announce" and event.who == "node/n1")
    assert (event.outcome, event.reporter) == ("refused", "svc:nats")


async def test_the_answering_side_looks_the_table_up_itself(
    control_plane: ControlPlane, bus_of: BusOf, victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the server's permissions be wrong, the second look still refuses, and says so."""
    admin = await bus_of("user", "admin")
    looked_up = access.rule_for(ORDER)
    assert looked_up is not None
    (server,) = [item.callback.__self__ for item in victim.bus._subscriptions if item.subject.startswith(f"{ORDER}.")]
    assert isinstance(server, bus_answering.Server)
    narrowed = access.Rule(looked_up.subject, frozenset({"csi"}), "node", privileged=False, why="")
    monkeypatch.setattr(server, "_rule", narrowed)
    with pytest.raises(StosError, match="may not ask") as caught:
        await admin.request(ORDER, DescribeReplica(volume=VOLUME), Empty)
    assert caught.value.code is Code.PERMISSION_DENIED
    assert victim.asked == []
    event = await told(admin, lambda event: "the role admin may not do that" in event.reason)
    assert event.who == "admin/admin"
