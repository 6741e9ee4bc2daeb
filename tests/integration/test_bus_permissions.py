"""What the server itself enforces: a role says and hears what the table allows, in its own name, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from stoscore import subjects
from stoscore.access import KIND, RULES, Caller, Rule, addressed, may_answer, payload_max
from stoscore.bus import Bus
from stoscore.errors import Code, StosError
from stoscore.jetstream import STREAMS
from stoscore.nats_session import Session
from stoscore.subjects import NODE_KEYS, PREFIX
from tests.integration.conftest import BusOf
from tests.support.control_plane import ControlPlane

VOLUME = "0123456789abcdef" * 2
NAMES = {role: f"{role}-9" if kind == "svc" else f"{role}9" for role, kind in KIND.items()}
"""One identity of each role."""
BUCKET = "$KV.stos-catalogue"


def asked(rule: Rule, node: str = "n2") -> str:
    """A subject of that row."""
    words = rule.subject.split(".")
    return ".".join(
        node if word == "*" and words[2:4] == ["node", "*"] and at == 3 else word for at, word in enumerate(words)
    ).replace("*", VOLUME)


class Speaker:
    """A connection that notes what it may not say and hear."""

    def __init__(self, plane: ControlPlane, role: str):
        self.denied: set[str] = set()
        kind, name = KIND[role], NAMES[role]
        self.me = Caller(role, name)
        self.identity = plane.identity(kind, name, role if kind == "user" else "")
        self.urls = plane.nats_urls

    async def open(self) -> Session:
        inbox = f"{self.identity.inbox_prefix}.test"
        return await Session.open(self.identity, self.urls, "test", inbox, self.denied.add)

    async def said(self, *spoken: str) -> set[str]:
        """Those of the subjects on which the server lets it publish."""
        session = await self.open()
        for subject in spoken:
            session.publish(subject, b"")
        await session.round_trip()
        await session.close()
        return {subject for subject in spoken if subject.lower() not in self.denied}

    async def heard(self, *listened: str) -> set[str]:
        """Those that it may subscribe to."""
        session = await self.open()
        for subject in listened:
            session.subscribe(subject, "", lambda _: None)
        await session.round_trip()
        allowed = {subject for subject in listened if not session.is_denied(subject)}
        await session.close()
        return allowed


@pytest.mark.parametrize("role", KIND)
async def test_a_role_asks_what_the_table_allows(control_plane: ControlPlane, role: str) -> None:
    speaker = Speaker(control_plane, role)
    every = {addressed(asked(rule), speaker.me): rule for rule in RULES}
    allowed = {subject for subject, rule in every.items() if role in rule.roles}
    assert await speaker.said(*every) == allowed
    assert 0 < len(allowed) < len(every)


@pytest.mark.parametrize("role", KIND)
async def test_nobody_asks_in_another_name_or_role(control_plane: ControlPlane, role: str) -> None:
    speaker = Speaker(control_plane, role)
    others = [Caller(role, "other"), *(Caller(other, NAMES[role]) for other in KIND if other != role)]
    forged = [addressed(asked(rule), other) for rule in RULES for other in others]
    plain = [asked(rule) for rule in RULES if rule.subject != subjects.certs("trust")]
    unknown = [addressed(f"{PREFIX}.{path}", speaker.me) for path in ("node.n2.unheard", "certs.x", "x", "vol.1.brain")]
    assert await speaker.said(*forged, *plain, *unknown) == set()


@pytest.mark.parametrize("role", KIND)
async def test_nobody_listens_to_what_another_is_asked(control_plane: ControlPlane, role: str) -> None:
    speaker = Speaker(control_plane, role)
    every = {f"{asked(rule, NAMES[role])}.by.*.*": rule for rule in RULES}
    mine = {s for s, rule in every.items() if may_answer(asked(rule, NAMES[role]), rule, speaker.me)}
    assert await speaker.heard(*every) == mine
    wide = [f"{asked(rule, 'n2')}.by.*.*" for rule in RULES if rule.answered_by == "node" and "*" in rule.subject]
    wide += [f"{PREFIX}.>", f"{PREFIX}.node.>", f"{PREFIX}.*.*.by.*.*", ">", "*.>", "$SYS.>", "$JS.>", f"{BUCKET}.>"]
    wide += ["_INBOX.>", "_INBOX.*.*.>", "_INBOX.node.n2.>", "_INBOX.user.admin.>", f"_INBOX.svc.{'x' * 5}.>"]
    assert await speaker.heard(*wide) == set()
    assert await speaker.heard(f"{speaker.me.inbox}.>") == {f"{speaker.me.inbox}.>"}


@pytest.mark.parametrize("role", KIND)
async def test_what_is_told_without_being_asked(control_plane: ControlPlane, role: str) -> None:
    speaker = Speaker(control_plane, role)
    name = NAMES[role]
    own = {
        "node": {
            subjects.event(name, "audit"),
            subjects.event(name, "decision"),
            subjects.brain(VOLUME, name),
        },
        "certs": {subjects.event(f"svc:{name}", "audit"), subjects.certs("trust")},
        "nats": {subjects.event(f"svc:{name}", "audit"), f"{NODE_KEYS}.n2", f"{BUCKET}.name.data"},
    }.get(role, {subjects.event(f"svc:{name}", "audit")} if KIND[role] == "svc" else set())
    foreign = {
        subjects.event("n2", "audit"),
        subjects.event("n2", "decision"),
        subjects.event("svc:certs", "audit"),
        subjects.event(name, "other"),
        subjects.event(f"user:{name}", "audit"),
        subjects.brain(VOLUME, "n2"),
        subjects.certs("trust"),
        f"{NODE_KEYS}.n2",
        f"{NODE_KEYS}.{name}",
        f"{BUCKET}.name.data",
        "_INBOX.node.n2.session.token",
        "_INBOX.user.admin.session.token.by.node.n2",
        "_INBOX.user.admin.session.token.by.certs.certs",
        "_INBOX.user.admin",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.USER.INFO",
        "$SYS.REQ.CLAIMS.UPDATE",
    } - own
    allowed = await speaker.said(*own, *foreign)
    # svc/nats writes the whole bucket.
    assert allowed - {f"{NODE_KEYS}.{name}" if role == "nats" else ""} == own


@pytest.mark.parametrize("role", KIND)
async def test_jetstream_is_for_two_roles_and_makes_no_consumer(control_plane: ControlPlane, role: str) -> None:
    verbs = ("CREATE", "UPDATE", "DELETE", "PURGE", "INFO", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE")
    streams = {f"$JS.API.STREAM.{verb}.{stream}" for verb in verbs for stream in (*STREAMS, "mine")}
    others = {f"$JS.API.DIRECT.GET.{stream}" for stream in STREAMS}
    for stream in STREAMS:
        others |= {f"$JS.API.CONSUMER.{verb}.{stream}.x" for verb in ("CREATE", "DURABLE.CREATE", "MSG.NEXT", "INFO")}
        others |= {f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.ACK.{stream}.x", f"$JS.FC.{stream}.x"}
    others |= {"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"}
    allowed = {"certs": ("CREATE", "UPDATE"), "nats": ("INFO", "MSG.GET")}.get(role, ())
    expected = {f"$JS.API.STREAM.{verb}.{stream}" for verb in allowed for stream in STREAMS}
    assert await Speaker(control_plane, role).said(*streams, *others) == expected


async def test_a_refusal_is_told_to_who_asked(bus_of: BusOf) -> None:
    viewer: Bus = await bus_of("user", "eve/viewer")
    for subject in (subjects.volume("n1", VOLUME, "delete"), subjects.certs("revoke")):
        with pytest.raises(StosError) as caught:
            await viewer.call(viewer.addressed(subject), b"{}", timeout_s=3.0)
        assert caught.value.code is Code.PERMISSION_DENIED


async def test_who_only_asks_sends_small_messages_and_few_subscriptions(control_plane: ControlPlane) -> None:
    speaker = Speaker(control_plane, "viewer")
    hoarder, talker = await speaker.open(), await speaker.open()
    for number in range(100):
        hoarder.subscribe(f"{speaker.me.inbox}.{number}", "", lambda _: None)
    assert "maximum subscriptions" in (await hoarder.lost).lower()
    talker._payload_max = 1 << 20  # as another client library would
    talker.publish(addressed(subjects.node("n1", "status"), speaker.me), b"x" * (payload_max("viewer") + 1))
    async with asyncio.timeout(10):
        await talker.lost
