"""Two and more networks over real TLS on loopback, on uvloop; strangers knock and the listener lives on."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from services.replica.peers import Frame, Link, PeerNetwork, Type, check_range, pack
from services.replica.peers import link as link_module
from services.replica.peers import listener as listener_module
from services.replica.peers import network as network_module
from services.replica.peers.payloads import Greeting
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.units import MIB
from tests.support.ca import TestAuthority

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


class Recorder:
    """A handler that keeps copies of what it sees and answers WRITE with ACK."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, bytes]] = []
        self.calls = 0
        self.events: list[str] = []
        self.links: dict[str, Link] = {}
        self.reasons: list[str] = []

    def frames(self, link: Link, frames: list[Frame]) -> None:
        self.calls += 1
        for frame in frames:
            self.seen.append((link.peer, frame.type, frame.id, bytes(frame.payload)))
            if frame.type == Type.WRITE:
                link.send(pack(Type.ACK, id=frame.id))
            elif frame.type == Type.ZERO:
                check_range(frame)
            elif frame.type == Type.COPY:
                link.send(pack(Type.WRITE, id=frame.id, length=len(frame.payload)), frame.payload)

    def link_up(self, link: Link) -> None:
        self.events.append(f"up {'to' if link.outgoing else 'from'} {link.peer}")
        self.links[f"{'to' if link.outgoing else 'from'} {link.peer}"] = link

    def link_down(self, link: Link, reason: str) -> None:
        self.events.append(f"down {'to' if link.outgoing else 'from'} {link.peer}")
        self.reasons.append(reason)

    def ids(self, kind: Type) -> list[int]:
        return [number for _, type, number, _ in self.seen if type == kind]


class Node:
    def __init__(self, network: PeerNetwork, handler: Recorder, address: str) -> None:
        self.network = network
        self.handler = handler
        self.address = address


Make = Callable[..., Awaitable[Node]]


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
async def make(authority: TestAuthority, tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def start(
            name: str, *, identity: Identity | None = None, protocol: int = 1, cluster: str = "stos", port: int = 0
        ) -> Node:
            assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
            handler = Recorder()
            network = PeerNetwork(
                identity=identity or authority.issue(tmp_path, name),
                node=name,
                cluster=cluster,
                version="0.1.0",
                host="127.0.0.1",
                port=port,
                handler=handler,
                logger=logging.getLogger(f"test.peers.{name}"),
                protocol=protocol,
            )
            address = await network.start()
            stack.push_async_callback(network.stop)
            return Node(network, handler, address)

        yield start


async def until(condition: Callable[[], object], *, within_s: float = 8.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def linked(make: Make) -> tuple[Node, Node]:
    n1, n2 = await make("n1"), await make("n2")
    n1.network.dial("n2", n2.address)
    await until(lambda: n1.network.connected("n2") and n2.handler.events)
    return n1, n2


async def test_a_link_comes_up_between_two_nodes_and_carries_both_ways(make: Make) -> None:
    n1, n2 = await linked(make)
    assert n1.handler.events == ["up to n2"]
    assert n2.handler.events == ["up from n1"]
    assert n1.network.send("n2", pack(Type.WRITE, id=7, length=5), b"hello")
    await until(lambda: n1.handler.seen)
    assert n2.handler.seen == [("n1", Type.WRITE, 7, b"hello")]
    assert n1.handler.seen == [("n2", Type.ACK, 7, b"")]
    link = n1.handler.links["to n2"]
    assert link.bytes_sent > 93 and link.bytes_received > 88
    acknowledged, received = link.wire_bytes()
    assert acknowledged > link.bytes_sent and received > link.bytes_received
    assert link.local_port and link.remote == n2.address


async def test_what_one_wake_up_sends_arrives_in_order_and_together(make: Make) -> None:
    n1, n2 = await linked(make)
    for number in range(200):
        n1.network.send("n2", pack(Type.WRITE, id=number, length=100), bytes(100))
    await until(lambda: len(n1.handler.ids(Type.ACK)) == 200)
    assert n2.handler.ids(Type.WRITE) == list(range(200))
    assert n1.handler.ids(Type.ACK) == list(range(200))
    assert n2.handler.calls <= 8
    assert n1.handler.calls <= 8


async def test_parts_may_be_reused_at_once(make: Make) -> None:
    """Small, large and huge parts, each overwritten as soon as `send` has returned."""
    n1, n2 = await linked(make)
    sizes = [1, 4096, link_module.DIRECT_BYTES - 1, link_module.DIRECT_BYTES, 200_000, 3 * MIB, 4096] * 3
    expected = []
    for number, size in enumerate(sizes):
        body = bytearray(os.urandom(size))
        expected.append(bytes(body))
        assert n1.network.send("n2", pack(Type.COMMIT, id=number, length=size), memoryview(body))
        body[:] = bytes(size)
    await until(lambda: len(n2.handler.seen) == len(sizes))
    assert [body for *_, body in n2.handler.seen] == expected


async def test_a_payload_can_be_sent_on_from_the_receive_buffer(make: Make) -> None:
    n1, _ = await linked(make)
    bodies = [os.urandom(size) for size in (4096, 100_000, 2 * MIB, 64, 700_000)]
    for number, body in enumerate(bodies):
        n1.network.send("n2", pack(Type.COPY, id=number, length=len(body)), body)
    await until(lambda: len(n1.handler.seen) == len(bodies))
    assert [body for *_, body in n1.handler.seen] == bodies


async def test_the_largest_frame_passes(make: Make) -> None:
    n1, n2 = await linked(make)
    body = os.urandom(MIB) * 33
    n1.network.send("n2", pack(Type.COMMIT, length=len(body)), body)
    await until(lambda: n2.handler.seen, within_s=20)
    assert n2.handler.seen[0][3] == body


async def test_a_restarted_peer_is_linked_again_and_told_apart(make: Make) -> None:
    n1, n2 = await linked(make)
    port = int(n2.address.rpartition(":")[2])
    await n2.network.stop()
    await until(lambda: not n1.network.connected("n2"))
    assert n1.network.send("n2", b"x") is False
    again = await make("n2", port=port)
    await until(lambda: n1.network.connected("n2"))
    assert n1.handler.events == ["up to n2", "down to n2", "up to n2"]
    await until(lambda: again.handler.events == ["up from n1"])


async def test_a_link_from_the_peer_ends_the_pause_before_dialling_it(make: Make) -> None:
    n1, n2 = await linked(make)
    port = int(n2.address.rpartition(":")[2])
    await n2.network.stop()
    await asyncio.sleep(1.7)
    again = await make("n2", port=port)
    again.network.dial("n1", n1.address)
    await until(lambda: "up from n2" in n1.handler.events)
    await until(lambda: n1.network.connected("n2"), within_s=0.3)


async def test_a_newer_link_of_the_same_node_drops_the_old_one_first(
    make: Make, authority: TestAuthority, tmp_path: Path
) -> None:
    n2 = await make("n2")
    first, second = await make("n1"), await make("n1")
    first.network.dial("n2", n2.address)
    await until(lambda: n2.handler.events == ["up from n1"])
    old = n2.handler.links["from n1"]
    second.network.dial("n2", n2.address)
    await until(lambda: len(n2.handler.events) >= 3)
    assert n2.handler.events[:3] == ["up from n1", "down from n1", "up from n1"]
    assert not old.open
    assert n2.handler.reasons[0] == "replaced by a newer link"


async def test_dial_is_idempotent_and_another_address_replaces(make: Make) -> None:
    n1, n2 = await linked(make)
    n1.network.dial("n2", n2.address)
    assert n1.network.connected("n2")
    await n2.network.stop()
    moved = await make("n2")
    n1.network.dial("n2", moved.address)
    await until(lambda: n1.network.connected("n2"))
    await until(lambda: moved.handler.events == ["up from n1"])
    n1.network.hang_up("n2")
    n1.network.hang_up("n2")
    assert not n1.network.connected("n2")
    await until(lambda: moved.handler.events == ["up from n1", "down from n1"])
    with pytest.raises(StosError):
        n1.network.dial("n2", "nowhere")


async def test_a_node_may_dial_itself(make: Make) -> None:
    n1 = await make("n1")
    n1.network.dial("n1", n1.address)
    await until(lambda: n1.network.connected("n1"))
    n1.network.send("n1", pack(Type.WRITE, id=1))
    await until(lambda: n1.handler.ids(Type.ACK) == [1])


async def test_frames_that_make_no_sense_end_the_link_and_nothing_else(make: Make) -> None:
    n1, n2 = await linked(make)
    n3 = await make("n3")
    n3.network.dial("n2", n2.address)
    await until(lambda: n3.network.connected("n2"))
    n1.network.send("n2", b"rubbish".ljust(88, b"!"))
    await until(lambda: n2.handler.reasons)
    assert "no frame of this protocol" in n2.handler.reasons[0]
    n1.network.hang_up("n2")
    assert n3.network.send("n2", pack(Type.WRITE, id=1))
    await until(lambda: n3.handler.ids(Type.ACK) == [1])


async def test_a_handler_may_refuse_a_payload(make: Make) -> None:
    n1, n2 = await linked(make)
    n1.network.send("n2", pack(Type.ZERO, z=0))
    await until(lambda: n2.handler.reasons)
    assert "impossible range" in n2.handler.reasons[0]


async def test_a_peer_that_reads_nothing_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PENDING_BYTES_MAX", 24 * MIB)
    n1, n2 = await linked(make)
    incoming = n2.handler.links["from n1"]
    assert incoming._transport is not None
    incoming._transport.pause_reading()
    link = n1.handler.links["to n2"]
    body = bytes(MIB)
    was_writable = link.writable
    sent = 0
    while n1.network.send("n2", pack(Type.COMMIT, length=MIB), body) and sent < 400:
        sent += 1
        await asyncio.sleep(0)
    assert was_writable and not link.writable
    assert sent < 100
    assert "unread" in n1.handler.reasons[0]


async def test_writable_turns_true_again(make: Make) -> None:
    n1, n2 = await linked(make)
    incoming = n2.handler.links["from n1"]
    assert incoming._transport is not None
    incoming._transport.pause_reading()
    link = n1.handler.links["to n2"]
    resumed: list[Link] = []
    link.on_writable = resumed.append
    while link.writable:
        link.send(pack(Type.COMMIT, length=MIB), bytes(MIB))
        await asyncio.sleep(0)
    assert link.pending_bytes > MIB
    incoming._transport.resume_reading()
    await until(lambda: resumed == [link])
    assert link.writable


# ---- strangers ---------------------------------------------------------------------------------------


def record(caplog: pytest.LogCaptureFixture, message: str) -> dict[str, object]:
    (found,) = [entry for entry in caplog.records if entry.getMessage() == message]
    return found.__dict__


async def still_works(make: Make, n2: Node) -> None:
    friend = await make("friend")
    friend.network.dial("n2", n2.address)
    await until(lambda: friend.network.connected("n2"))


async def knock(node: Node, data: bytes = b"", context: ssl.SSLContext | None = None) -> bytes:
    """What a bare client gets until it is hung up on."""
    host, _, port = node.address.rpartition(":")
    try:
        async with asyncio.timeout(8):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(data)
            answer = await reader.read()
            writer.transport.abort()
            return answer
    except (OSError, ssl.SSLError):
        return b""


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", os.urandom(2000), b"\x16\x03\x01\x00\x05hello"])
async def test_plaintext_and_garbage_are_turned_away(make: Make, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    n2 = await make("n2")
    await knock(n2, data)
    await until(lambda: n2.network.strangers.total() == 1)
    assert record(caplog, "peer connection refused")["kind"] == "tls"
    await still_works(make, n2)


async def test_a_scanner_that_hangs_up_is_counted(make: Make) -> None:
    n2 = await make("n2")
    host, _, port = n2.address.rpartition(":")
    socket.create_connection((host, int(port))).close()
    await until(lambda: n2.network.strangers["closed"] == 1)
    await still_works(make, n2)


async def test_a_client_without_a_certificate_is_turned_away(
    make: Make, authority: TestAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    n2 = await make("n2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert await knock(n2, Greeting("n1", "stos", "").pack(), context) == b""
    await until(lambda: n2.network.strangers["certificate"] == 1)
    assert "did not return a certificate" in str(record(caplog, "peer connection refused")["reason"])
    await still_works(make, n2)


async def test_old_tls_is_turned_away(make: Make, authority: TestAuthority, tmp_path: Path) -> None:
    n2 = await make("n2")
    context = authority.issue(tmp_path, "n1").client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await knock(n2, b"", context) == b""
    await until(lambda: n2.network.strangers["tls"] == 1)


async def test_foreign_and_expired_certificates_are_turned_away(
    make: Make, authority: TestAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n2 = await make("n2")
    n1, n2_uri = "spiffe://stos/node/n1", "spiffe://stos/node/n2"
    strangers = {
        "its certificate is not accepted": TestAuthority().issue_files(tmp_path, [n1]),
        "expired": authority.issue_files(tmp_path, [n1], valid=timedelta(seconds=-5)),
        "is of cluster 'other'": authority.issue_files(tmp_path, ["spiffe://other/node/n1"]),
        "svc/csi, which is no node": authority.issue_files(tmp_path, ["spiffe://stos/svc/csi"]),
        "names 0 identities": authority.issue_files(tmp_path, []),
        "names 2 identities": authority.issue_files(tmp_path, [n1, n2_uri]),
        "no identity of this system": authority.issue_files(tmp_path, ["https://stos/node/n1"]),
    }
    for says, directory in strangers.items():
        caplog.clear()
        n2.network.strangers.clear()
        await knock(n2, b"", _trusting_anyone(directory))
        await until(lambda: n2.network.strangers.total() == 1)
        assert says in str(record(caplog, "peer connection refused")["reason"])
    assert n2.handler.events == []
    await still_works(make, n2)


def _trusting_anyone(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


async def test_a_node_cannot_greet_in_anothers_name(
    make: Make, authority: TestAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n2 = await make("n2")
    thief = await make("n1", identity=authority.issue(tmp_path, "n3"))
    thief.network.dial("n2", n2.address)
    await until(lambda: n2.network.strangers["identity"])
    assert n2.handler.events == []
    await until(lambda: _logged(caplog, "greets as 'n1' with the certificate of 'n3'"))


async def test_who_answers_a_dial_must_be_who_was_meant(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    n1, n3 = await make("n1"), await make("n3")
    n1.network.dial("n2", n3.address)
    await until(lambda: _logged(caplog, "dialled n2, but n3 answered"))
    assert n1.handler.events == n3.handler.events == []


async def test_a_newer_protocol_is_refused_in_clear_words_on_both_sides(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    n2, newer = await make("n2"), await make("n1", protocol=2)
    newer.network.dial("n2", n2.address)
    says = "n1 (0.1.0) speaks peer protocol 2, n2 (0.1.0) speaks 1: bring both to one version"
    await until(lambda: _logged(caplog, f"refused by n2: {says}"))
    assert n2.network.strangers["version"] >= 1
    assert n2.handler.events == newer.handler.events == []
    failures = [entry for entry in caplog.records if entry.getMessage() == "peer link failed"]
    await asyncio.sleep(0.3)
    assert len(failures) == 1


def _logged(caplog: pytest.LogCaptureFixture, reason: str) -> bool:
    return any(reason in str(entry.__dict__.get("reason", "")) for entry in caplog.records)


async def test_another_cluster_of_the_same_authority_is_refused(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    n2, other = await make("n2"), await make("n1", cluster="elsewhere")
    other.network.dial("n2", n2.address)
    await until(lambda: _logged(caplog, "of cluster 'stos', this is 'elsewhere'"))
    assert n2.handler.events == []


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (pack(Type.HELLO, length=5000), "frames"),
        (pack(Type.WRITE, length=3) + b"abc", "frames"),
        (pack(Type.HELLO, length=3) + b"abc", "frames"),
        (b"?" * 200, "frames"),
    ],
)
async def test_a_node_that_does_not_greet_is_turned_away(
    make: Make, authority: TestAuthority, tmp_path: Path, first: bytes, kind: str
) -> None:
    n2 = await make("n2")
    await knock(n2, first, authority.issue(tmp_path, "n1").client_context())
    await until(lambda: n2.network.strangers[kind] == 1)
    assert n2.network.strangers.total() == 1
    await still_works(make, n2)


async def test_who_dawdles_is_turned_away(
    make: Make, authority: TestAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKE_S", 0.3)
    monkeypatch.setattr(network_module, "GREETING_S", 0.3)
    n2 = await make("n2")
    await knock(n2)
    await until(lambda: n2.network.strangers["timeout"] == 1)
    await knock(n2, b"", authority.issue(tmp_path, "n1").client_context())
    await until(lambda: n2.network.strangers["timeout"] == 2)
    await still_works(make, n2)


async def test_many_who_dawdle_do_not_keep_an_honest_peer_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKES_MAX", 8)
    n2 = await make("n2")
    host, _, port = n2.address.rpartition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(30)]
    try:
        await still_works(make, n2)
        assert n2.network.strangers["timeout"] >= 20
    finally:
        for sock in idle:
            sock.close()


async def test_a_port_in_use_stops_the_network_with_a_clear_word(make: Make) -> None:
    n1 = await make("n1")
    with pytest.raises(StosError) as caught:
        await make("n2", port=int(n1.address.rpartition(":")[2]))
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "in use" in str(caught.value)
