"""Who is not a node of this cluster at this moment gets no link, is told to the audit, and disturbs nobody."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from services.replica import tls_listener
from services.replica.peers import Type, pack, reception
from services.replica.peers import network as network_module
from services.replica.peers.payloads import Greeting
from stoscore.certs_messages import Denied
from stoscore.identity import Identity, install, next_key
from tests.support.ca import HOUR, TestAuthority
from tests.support.peers import Make, PeerNode, linked, peer_nodes, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
N1, N2 = "spiffe://stos/node/n1", "spiffe://stos/node/n2"


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
async def make(authority: TestAuthority, tmp_path: Path) -> AsyncIterator[Make]:
    async with peer_nodes(authority, tmp_path) as start:
        yield start


async def still_works(make: Make, n2: PeerNode) -> None:
    friend = await make("friend")
    friend.network.dial("n2", n2.address)
    await until(lambda: friend.network.connected("n2"))


async def knock(node: PeerNode, data: bytes = b"", context: ssl.SSLContext | None = None) -> bytes:
    """What a bare client gets until it is hung up on."""
    try:
        async with asyncio.timeout(15):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=context)
            writer.write(data)
            answer = await reader.read()
            writer.transport.abort()
            return answer
    except (OSError, ssl.SSLError):
        return b""


def showing(directory: Path | None) -> ssl.SSLContext:
    """A client that believes every server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if directory is not None:
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


def revoke(authority: TestAuthority, tmp_path: Path, name: str, *told: Identity, number: int = 10) -> None:
    """certs says to these that the node's certificates, all issued until now, are good no more."""
    certs = authority.issue(tmp_path, "certs", kind="svc")
    denied = Denied(kind="node", name=name, issued_before_s=1 << 40, expires_s=1 << 40, reason="stolen")
    for identity in told:
        identity.apply_trust(authority.trust(certs, number, denied=[denied]))


# ---- strangers that knock ------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", os.urandom(2000), b"\x16\x03\x01\x00\x05hello"])
async def test_plaintext_and_garbage_are_turned_away(make: Make, data: bytes) -> None:
    n2 = await make("n2")
    await knock(n2, data)
    await until(lambda: n2.network.strangers.total() == 1)
    assert n2.network.strangers["tls"] == 1
    (told,) = n2.audit.told
    assert (told.who, told.action, told.outcome) == ("127.0.0.1", "link.open", "refused")
    await still_works(make, n2)


async def test_a_scanner_that_hangs_up_is_counted(make: Make) -> None:
    n2 = await make("n2")
    socket.create_connection(("127.0.0.1", n2.port)).close()
    await until(lambda: n2.network.strangers["closed"] == 1)
    await still_works(make, n2)


async def test_a_client_without_a_certificate_is_turned_away(make: Make) -> None:
    n2 = await make("n2")
    assert await knock(n2, Greeting("n1", "stos", "").pack(), showing(None)) == b""
    await until(lambda: n2.network.strangers["certificate"] == 1)
    assert "did not return a certificate" in n2.audit.reasons("link.open")[0]
    await still_works(make, n2)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_a_client_of_an_older_tls_is_turned_away(
    make: Make, authority: TestAuthority, tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    n2 = await make("n2")
    context = showing(authority.issue_files(tmp_path, [N1]))
    context.minimum_version, context.maximum_version = newest, newest
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert await knock(n2, b"", context) == b""
    await until(lambda: n2.network.strangers["tls"] == 1)
    assert n2.handler.events == []


async def test_a_server_of_an_older_tls_is_not_believed(
    make: Make, authority: TestAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody in the middle who talks both sides down to TLS 1.2 meets two that do not speak it."""
    n1 = await make("n1")
    context = authority.issue(tmp_path, "n2").server_context()
    context.sni_callback = None
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    n1.network.dial("n2", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await until(lambda: _failures(caplog))
    assert "TLS" in _failures(caplog)[0] or "protocol" in _failures(caplog)[0], _failures(caplog)
    assert n1.handler.events == []
    server.close()


async def test_certificates_that_are_not_good_are_turned_away(
    make: Make, authority: TestAuthority, tmp_path: Path
) -> None:
    n2 = await make("n2")
    revoked = authority.issue_files(tmp_path, ["spiffe://stos/node/n3"])
    revoke(authority, tmp_path, "n3", n2.identity)
    strangers = {
        "its certificate is not accepted": TestAuthority().issue_files(tmp_path, [N1]),
        "expired": authority.issue_files(tmp_path, [N1], valid=timedelta(seconds=-5)),
        "not yet valid": authority.issue_files(tmp_path, [N1], valid=3 * HOUR, begins=2 * HOUR),
        "is revoked: stolen": revoked,
        "is of cluster 'other'": authority.issue_files(tmp_path, ["spiffe://other/node/n1"]),
        "svc/csi, which is no node": authority.issue_files(tmp_path, ["spiffe://stos/svc/csi"]),
        "user/eve, which is no node": authority.issue_files(tmp_path, ["spiffe://stos/user/eve"]),
        "names 0 identities": authority.issue_files(tmp_path, []),
        "names 2 identities": authority.issue_files(tmp_path, [N1, N2]),
        "no identity of this system": authority.issue_files(tmp_path, ["https://stos/node/n1"]),
    }
    for says, directory in strangers.items():
        n2.audit.told.clear()
        n2.network.strangers.clear()
        answer = await knock(n2, b"", showing(directory))
        await until(lambda: n2.network.strangers.total() == 1)
        assert says in n2.audit.reasons("link.open")[0], says
        assert b"WELCOME" not in answer
    assert n2.handler.events == []
    await still_works(make, n2)


async def test_who_proves_another_identity_is_named_with_it(
    make: Make, authority: TestAuthority, tmp_path: Path
) -> None:
    n2 = await make("n2")
    await knock(n2, b"", showing(authority.issue_files(tmp_path, ["spiffe://stos/svc/csi-node"])))
    await until(lambda: n2.audit.told)
    assert n2.audit.told[0].who == "svc/csi-node"


async def test_a_node_cannot_greet_in_anothers_name(make: Make, authority: TestAuthority, tmp_path: Path) -> None:
    n2 = await make("n2")
    thief = await make("n1", identity=authority.issue(tmp_path, "n3"))
    thief.network.dial("n2", n2.address)
    await until(lambda: n2.network.strangers["identity"])
    assert n2.handler.events == []
    assert n2.audit.reasons("link.open", "node/n3") == ["it greets as 'n1' with the certificate of 'n3'"]


async def test_who_answers_a_dial_must_be_who_was_meant(make: Make) -> None:
    n1, n3 = await make("n1"), await make("n3")
    n1.network.dial("n2", n3.address)
    await until(lambda: n1.audit.told)
    assert n1.audit.told[0].who == "node/n3"
    assert n1.audit.told[0].reason == "dialled n2, but n3 answered"
    assert n1.handler.events == n3.handler.events == []


async def test_a_newer_protocol_is_refused_in_clear_words_on_both_sides(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    n2, newer = await make("n2"), await make("n1", protocol=2)
    newer.network.dial("n2", n2.address)
    says = "n1 (0.1.0) speaks peer protocol 2, n2 (0.1.0) speaks 1: bring both to one version"
    await until(lambda: n2.network.strangers["version"] >= 3)
    assert set(n2.audit.reasons("link.open", "node/n1")) == {says}
    assert n2.handler.events == newer.handler.events == []
    assert _failures(caplog) == [f"refused by n2: {says}"]


def _failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(entry.__dict__["reason"]) for entry in caplog.records if entry.getMessage() == "peer link failed"]


async def test_another_cluster_of_the_same_authority_is_refused(make: Make) -> None:
    n2, other = await make("n2"), await make("n1", cluster="elsewhere")
    other.network.dial("n2", n2.address)
    await until(lambda: any("of cluster 'elsewhere', this is 'stos'" in said for said in n2.audit.reasons("link.open")))
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


# ---- strangers that dawdle, and many of them -----------------------------------------------------------


async def test_who_dawdles_is_turned_away(
    make: Make, authority: TestAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_listener, "HANDSHAKE_S", 0.3)
    monkeypatch.setattr(reception, "GREETING_S", 0.3)
    n2 = await make("n2")
    await knock(n2)
    await until(lambda: n2.network.strangers["timeout"] == 1)
    await knock(n2, b"", authority.issue(tmp_path, "n1").client_context())
    await until(lambda: n2.network.strangers["timeout"] == 2)


def _client_hello(identity: Identity) -> bytes:
    """The first bytes of an honest handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = identity.client_context().wrap_bio(incoming, outgoing, server_hostname="n2")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    return outgoing.read()


async def test_handshakes_that_go_byte_by_byte_are_few_and_keep_nobody_out(
    make: Make, authority: TestAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty strangers begin an honest handshake and send a byte of it now and then."""
    crowd = replace(tls_listener.PEERS, handshakes=12, handshakes_per_address=8)
    monkeypatch.setattr(network_module, "PEERS", crowd)
    n2 = await make("n2")
    hello = _client_hello(authority.issue(tmp_path, "n1"))
    slow = [socket.create_connection(("127.0.0.1", n2.port)) for _ in range(30)]
    try:
        for at in range(20):
            for sock in slow:
                try:
                    sock.send(hello[at : at + 1])
                except OSError:
                    continue
            await asyncio.sleep(0.01)
            listener = n2.network._listener
            assert listener is not None
            assert listener.handshakes <= 8
        await still_works(make, n2)
        assert n2.network.strangers["timeout"] >= 22
        assert "handshakes of its address are under way" in n2.audit.reasons("link.open")[0]
    finally:
        for sock in slow:
            sock.close()


async def test_certified_peers_that_say_nothing_are_few(make: Make, authority: TestAuthority, tmp_path: Path) -> None:
    """A good certificate opens TLS, and after that a silent connection costs a link's memory."""
    n2 = await make("n2")
    context = authority.issue(tmp_path, "n1").client_context()
    silent = [await asyncio.open_connection("127.0.0.1", n2.port, ssl=context) for _ in range(12)]
    await until(lambda: n2.network.strangers["timeout"] == 12 - reception.WAITING_PER_PEER_MAX)
    assert len(n2.network._reception.waiting()) == reception.WAITING_PER_PEER_MAX
    assert set(n2.audit.reasons("link.open", "node/n1")) == {"gave way: 4 links of n1 have not greeted"}
    await still_works(make, n2)
    for _, writer in silent:
        writer.transport.abort()


async def test_connections_that_come_too_fast_are_closed_before_they_cost_anything(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "PEERS", replace(tls_listener.PEERS, per_s=20, burst=5))
    n2 = await make("n2")
    for _ in range(60):
        socket.create_connection(("127.0.0.1", n2.port)).close()
    await until(lambda: n2.network.strangers.total() >= 60)
    assert n2.network.strangers["pace"] >= 20
    await still_works(make, n2)


# ---- the trust changes ---------------------------------------------------------------------------------


async def test_revocation_ends_links_at_once_and_they_do_not_come_back(
    make: Make, authority: TestAuthority, tmp_path: Path
) -> None:
    n1, n2 = await linked(make)
    n2.network.dial("n1", n1.address)
    await until(lambda: n2.network.connected("n1") and n1.handler.events.count("up from n2"))
    revoke(authority, tmp_path, "n1", n2.identity)
    assert n2.network.links() == []
    assert sorted(n2.handler.events[-2:]) == ["down from n1", "down to n1"]
    assert n2.audit.reasons("link.keep", "node/n1") == ["the certificate of node/n1 is revoked: stolen"] * 2
    await until(lambda: n2.network.strangers["identity"] >= 2)
    assert n2.audit.reasons("link.open", "node/n1")[0] == "the certificate of node/n1 is revoked: stolen"
    assert n2.network.links() == []
    await still_works(make, n2)


async def test_revocation_ends_a_link_that_has_not_greeted(
    make: Make, authority: TestAuthority, tmp_path: Path
) -> None:
    n2 = await make("n2")
    context = authority.issue(tmp_path, "n1").client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", n2.port, ssl=context)
    await until(lambda: n2.network._reception.waiting())
    revoke(authority, tmp_path, "n1", n2.identity)
    with pytest.raises((asyncio.IncompleteReadError, OSError)):
        async with asyncio.timeout(10):
            await reader.readexactly(1)
    assert n2.network.strangers["revoked"] == 1
    writer.transport.abort()


async def test_others_links_are_not_touched_by_a_revocation(
    make: Make, authority: TestAuthority, tmp_path: Path
) -> None:
    n1, n2 = await linked(make)
    revoke(authority, tmp_path, "n3", n1.identity, n2.identity)
    n1.network.send("n2", pack(Type.WRITE, id=5))
    await until(lambda: n1.handler.ids(Type.ACK) == [5])
    assert n1.handler.events == ["up to n2"]


async def test_new_connections_use_a_renewed_certificate_and_old_ones_go_on(
    make: Make, authority: TestAuthority
) -> None:
    n1, n2 = await linked(make)
    old = n2.handler.links["from n1"]
    assert old.identity is not None
    key = next_key(n1.identity.directory)
    issued = authority.credentials(key, N1)
    install(n1.identity.directory, issued)
    n1.identity.reload()
    n1.network.send("n2", pack(Type.WRITE, id=1))
    await until(lambda: n1.handler.ids(Type.ACK) == [1])
    assert n1.handler.events == ["up to n2"]
    serial = old.identity.serial
    old.close("to dial again")
    await until(lambda: n2.handler.events.count("up from n1") == 2)
    renewed = n2.handler.links["from n1"].identity
    assert renewed is not None
    assert renewed.serial != serial
    assert renewed.serial == n1.identity.peer.serial


async def test_a_root_that_is_retired_lets_nobody_in(make: Make, authority: TestAuthority, tmp_path: Path) -> None:
    """Two roots, then one: who is still below the old one is a stranger from the next connection on."""
    younger = TestAuthority(begins=timedelta(minutes=1))
    n2 = await make("n2")
    certs = authority.issue(tmp_path, "certs", kind="svc")
    both = authority.root_pem + younger.root_pem
    n2.identity.apply_trust(authority.trust(certs, 5, roots_pem=both))
    newcomer = younger.issue(tmp_path, "n3")
    await knock(n2, b"x" * 88, showing(newcomer.directory))
    await until(lambda: n2.network.strangers["frames"] == 1)
    newer = younger.issue(tmp_path, "certs", kind="svc")
    n2.identity.apply_trust(younger.trust(newer, 6, roots_pem=younger.root_pem))
    await knock(n2, b"", showing(authority.issue_files(tmp_path, [N1])))
    await until(lambda: n2.network.strangers["certificate"] == 1)
