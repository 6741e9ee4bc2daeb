"""The server pins each identity to its own subjects: nobody speaks, listens or answers in another's name."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.certs.authority import Authority
from services.certs.settings import CertsSettings
from services.certs.vault import Vault
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import KEYS, STREAM
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.messages import BidRequest, DescribeReplica, Empty
from stoscore.nats_session import Session
from tests.integration.conftest import BusOf
from tests.support.control_plane import ControlPlane, free_port

VOLUME = "0123456789abcdef" * 2


async def refused_to_listen(bus: Bus, subject: str) -> None:
    with pytest.raises(StosError) as caught:
        await bus.subscribe(subject, lambda *_: None)
    assert caught.value.code is Code.PERMISSION_DENIED


async def refused_to_publish(bus: Bus, subject: str, payload: bytes = b"{}") -> None:
    with pytest.raises(StosError) as caught:
        await bus.call(subject, payload, timeout_s=3.0)
    assert caught.value.code is Code.PERMISSION_DENIED, caught.value


@pytest.mark.parametrize(
    "subject",
    [
        subjects.node("n2", "create"),
        subjects.node("*", "create"),
        subjects.pair("n2", "n3"),
        subjects.pair("*", "n1"),
        f"{subjects.PREFIX}.node.>",
        f"{subjects.PREFIX}.>",
        ">",
        "_INBOX_node_n2.>",
        "_INBOX_user_admin.>",
        "_INBOX_svc_n1.>",
        subjects.placement("rank"),
        subjects.certs("renew"),
        "$SYS.>",
    ],
)
async def test_a_node_hears_only_what_is_its_own(bus_of: BusOf, subject: str) -> None:
    await refused_to_listen(await bus_of("node", "n1"), subject)


@pytest.mark.parametrize(
    "subject",
    [
        subjects.brain(VOLUME, "n2"),
        subjects.pair("n1", "n2"),
        subjects.event("n2", "decision"),
        subjects.node("n2", "open"),
        subjects.node("n2", "found"),
        subjects.volume("n2", VOLUME, "delete"),
        subjects.volume("n2", VOLUME, "policy"),
        "_INBOX_node_n2.x",
        f"{KEYS}.node.n2",
        f"{KEYS}.name.vol",
        f"$JS.API.STREAM.CREATE.{STREAM}",
        f"$JS.API.STREAM.DELETE.{STREAM}",
        f"$JS.API.CONSUMER.CREATE.{STREAM}",
        f"$JS.API.CONSUMER.CREATE.{STREAM}.x",
        "$JS.API.STREAM.CREATE.mine",
        "$SYS.REQ.SERVER.PING",
    ],
)
async def test_a_node_speaks_only_as_itself(bus_of: BusOf, subject: str) -> None:
    await refused_to_publish(await bus_of("node", "n1"), subject)


async def test_a_brain_hears_the_others(bus_of: BusOf) -> None:
    first, second = await bus_of("node", "n1"), await bus_of("node", "n2")
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    await first.subscribe(subjects.brain(VOLUME, "*"), lambda subject, data, _: heard.put_nowait((subject, data)))
    assert await second.publish(subjects.brain(VOLUME, "n2"), b"vote")
    async with asyncio.timeout(5):
        assert await heard.get() == (subjects.brain(VOLUME, "n2"), b"vote")
    # In another's name: accepted by the client library, dropped by the server.
    await second.publish(subjects.brain(VOLUME, "n3"), b"forged")
    await second.publish(subjects.brain(VOLUME, "n2"), b"after")
    async with asyncio.timeout(5):
        assert (await heard.get())[1] == b"after"


@pytest.mark.parametrize(("kind", "name"), [("svc", "placement-1"), ("svc", "csi"), ("user", "admin")])
async def test_services_do_not_answer_as_nodes(bus_of: BusOf, kind: str, name: str) -> None:
    bus = await bus_of(kind, name)
    await refused_to_listen(bus, subjects.node("n1", "create"))
    await refused_to_publish(bus, subjects.brain(VOLUME, "n1"))


async def test_placement_does_not_command(bus_of: BusOf) -> None:
    placement = await bus_of("svc", "placement-1")
    await refused_to_publish(placement, subjects.node("n1", "create"))
    await refused_to_publish(placement, f"{KEYS}.name.vol")


async def test_an_answer_in_anothers_name_does_not_arrive(bus_of: BusOf) -> None:
    """n2 knows where n1's answer is awaited, and still can't send one: nobody asked n2."""
    user, first, second = await bus_of("user", "admin"), await bus_of("node", "n1"), await bus_of("node", "n2")
    inboxes: list[str] = []

    async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
        (pending,) = user._pending
        assert user._session is not None
        inboxes.append(f"{user._session.inbox}.{pending}")
        await second.publish(inboxes[0], b'{"v":1,"ok":true,"result":{"node":"n2"}}')
        await asyncio.sleep(0.2)
        return Empty()

    await first.serve(subjects.node("n1", "describe"), DescribeReplica, describe)
    answer = await user.request(subjects.node("n1", "describe"), DescribeReplica(volume=VOLUME), Empty)
    assert answer == Empty()
    assert inboxes


async def test_a_stored_message_can_not_be_replayed_as_a_request(bus_of: BusOf) -> None:
    """A reply subject is not checked by the server: a node can have a stored message sent to another node."""
    handled: list[str] = []
    attacker, victim = await bus_of("node", "n1"), await bus_of("node", "n2")

    async def bids(request: BidRequest, context: RequestContext) -> Empty:
        handled.append(context.subject)
        return Empty()

    await victim.serve(subjects.node("n2", "create"), BidRequest, bids)
    await attacker.call(f"{KEYS}.node.n1", b'{"v":1,"size_bytes":4096}')
    session = attacker._session
    assert session is not None
    question = json.dumps({"last_by_subj": f"{KEYS}.node.n1"}).encode()
    session.publish(f"$JS.API.DIRECT.GET.{STREAM}", question, subjects.node("n2", "create"))
    await session.round_trip()
    user = await bus_of("user", "admin")
    await user.request(subjects.node("n2", "create"), BidRequest(size_bytes=1), Empty)
    assert handled == [subjects.node("n2", "create")]  # the user's alone


# ---- who gets in at all --------------------------------------------------------------------------------


def test_plain_text_is_not_spoken(control_plane: ControlPlane) -> None:
    with socket.create_connection(("127.0.0.1", control_plane.settings.nats_port), 5) as plain:
        plain.settimeout(0.5)
        try:
            said = plain.recv(100)
        except TimeoutError:
            said = b""
    assert b"INFO" not in said


def test_without_a_certificate_nobody_gets_in(control_plane: ControlPlane) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=control_plane.authority.root_pem)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak(control_plane, context)


def test_an_old_tls_version_is_refused(control_plane: ControlPlane) -> None:
    identity = control_plane.identity("node", "n1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.directory / "cert.pem", identity.directory / "key.pem")
    context.load_verify_locations(cadata=control_plane.authority.root_pem)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak(control_plane, context)


def speak(plane: ControlPlane, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", plane.settings.nats_port), 5) as plain,
        context.wrap_socket(plain, server_hostname="nats.stos.internal") as secured,
    ):
        return secured.recv(100)  # TLS 1.3: the refusal arrives with the first read


async def no_entry(identity: Identity, plane: ControlPlane, why: str) -> None:
    with pytest.raises(StosError, match=why) as caught:
        await Session.open(identity, plane.nats_urls, "stranger", "_INBOX_x", lambda _: None)
    assert caught.value.code is Code.UNAVAILABLE


def other_cluster(directory: Path, *, now: datetime | None = None) -> Authority:
    settings = CertsSettings(data_dir=directory, admin_socket=directory / "s", port=free_port())
    return Authority(settings, Vault(directory), lambda: now or datetime.now(UTC))


async def test_another_cluster_stays_out(control_plane: ControlPlane, tmp_path: Path) -> None:
    stranger = other_cluster(tmp_path / "other").own_identity(tmp_path / "identity", "node", "n1")
    await no_entry(stranger, control_plane, "CERTIFICATE_VERIFY_FAILED")


async def test_a_foreign_certificate_with_our_credential_stays_out(control_plane: ControlPlane, tmp_path: Path) -> None:
    stranger = other_cluster(tmp_path / "other").own_identity(tmp_path / "identity", "node", "n1")
    ours = control_plane.identity("node", "n1")
    for name in ("nats.jwt", "nats.seed", "trust.pem"):
        (stranger.directory / name).write_bytes((ours.directory / name).read_bytes())
    await no_entry(Identity(stranger.directory), control_plane, "(?i)unknown certificate authority|unknown ca")


async def test_an_expired_identity_stays_out(control_plane: ControlPlane, tmp_path: Path) -> None:
    authority = control_plane.authority
    before, authority.now = authority.now, lambda: datetime.now(UTC) - timedelta(days=5)
    try:
        with pytest.raises(StosError, match="expired"):
            authority.own_identity(tmp_path / "old", "node", "n1")
    finally:
        authority.now = before
    await no_entry(Identity(tmp_path / "old"), control_plane, "(?i)bad certificate|expired")


async def test_a_credential_without_its_key_stays_out(control_plane: ControlPlane, tmp_path: Path) -> None:
    first, second = control_plane.identity("node", "n1"), control_plane.identity("node", "n2")
    for path in first.directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "nats.jwt").write_text(second.nats_jwt())
    await no_entry(Identity(tmp_path), control_plane, "Authorization Violation")


async def test_a_node_can_not_pose_as_the_nats_server(control_plane: ControlPlane) -> None:
    """Its certificate is valid for TLS servers, and lacks the one host name that clients insist on."""
    thief = control_plane.identity("node", "n1")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=thief.server_context())
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname"):
            await asyncio.open_connection(
                "127.0.0.1",
                port,
                ssl=control_plane.identity("node", "n2").nats_context(),
                server_hostname="nats.stos.internal",
            )
    finally:
        server.close()
