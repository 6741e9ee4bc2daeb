"""Renewal with the real certs process and NATS server: live, make before break, for its owner only."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.certs_messages import Credentials, IdentityPage, ListIdentities
from stoscore.errors import Code, StosError
from stoscore.identity import NATS_HOST_NAME, Identity
from stoscore.messages import DescribeReplica, Empty
from stoscore.renewal import keep_renewed, renew, renewal_request
from tests.support.audit import told
from tests.support.certs_process import CertsProcess
from tests.support.living import living
from tests.support.tls import shake_hands

pytestmark = pytest.mark.long

RENEW = subjects.certs("renew")
VOLUME = "0123456789abcdef" * 2


@pytest.fixture
async def certs(tmp_path: Path) -> AsyncIterator[CertsProcess]:
    process = CertsProcess(tmp_path)
    try:
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(process.nats.start)
        yield process
    finally:
        process.stop()


async def settled(certs: CertsProcess) -> None:
    async with asyncio.timeout(10):
        while "streams are there" not in certs.logged():
            await asyncio.sleep(0.05)


async def test_a_renewal_changes_everything_in_place(certs: CertsProcess) -> None:
    identity = await certs.enrolled("node", "n1")
    bus = await certs.bus(identity)
    await settled(certs)
    before, key, listening = identity.certificate, identity.key, identity.server_context()
    await renew(identity, bus)
    assert identity.certificate.serial_number != before.serial_number
    assert identity.key.public_key() != key.public_key()
    _, dialled = shake_hands(listening, identity.client_context())
    assert identity.verified_peer(dialled).serial == identity.peer.serial
    assert Identity.load(identity.directory).certificate == identity.certificate
    assert bus.connected
    await renew(identity, bus)  # by the renewed one
    await bus.close()


async def test_only_its_owner_renews_an_identity(certs: CertsProcess) -> None:
    first, second = await certs.enrolled("node", "n1"), await certs.enrolled("node", "n2")
    bus = await certs.bus(second)
    await settled(certs)

    async def refused(code: Code, why: str, **changes: str) -> None:
        request = renewal_request(second).model_copy(update=changes)
        with pytest.raises(StosError, match=why) as caught:
            await bus.request(RENEW, request, Credentials)
        assert caught.value.code is code

    # n2 sends what n1 would send, proof and all: a message of a wrong sender.
    with pytest.raises(StosError, match="in the name of node/n1") as caught:
        await bus.request(RENEW, renewal_request(first), Credentials)
    assert caught.value.code is Code.PERMISSION_DENIED
    other_proof = base64.b64encode(first.sign(renewal_request(second).csr_pem.encode())).decode()
    await refused(Code.UNAUTHENTICATED, "not signed", proof=other_proof)
    await refused(Code.UNAUTHENTICATED, "not signed", proof=base64.b64encode(b"x").decode())
    await refused(Code.INVALID_ARGUMENT, "proof", proof="%%%")
    await refused(Code.INVALID_ARGUMENT, "certificate_pem", certificate_pem="rubbish")
    foreign = CertsProcess(certs.directory / "foreign")
    foreign.directory.mkdir()
    try:
        await asyncio.to_thread(foreign.start)
        stranger = await foreign.enrolled("node", "n2")
    finally:
        foreign.stop()
    request = renewal_request(stranger)
    with pytest.raises(StosError, match="not of this cluster") as caught:
        await bus.request(RENEW, request, Credentials)
    assert caught.value.code is Code.UNAUTHENTICATED
    await renew(second, bus)
    await bus.close()


def shown_serial(certs: CertsProcess, identity: Identity) -> int:
    """Serial number of the certificate that the NATS server shows now."""
    with (
        socket.create_connection(("127.0.0.1", certs.nats.port), 5) as plain,
        identity.nats_context().wrap_socket(plain, server_hostname=NATS_HOST_NAME) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
        assert shown
        return x509.load_der_x509_certificate(shown).serial_number


@pytest.mark.slow
async def test_a_cluster_outlives_its_first_certificates(tmp_path: Path) -> None:
    """With certificates that live 8 s: after 20 s every identity was renewed several times, the NATS server's
    and certs' own included, and no request of a continuous row was lost."""
    certs = CertsProcess(tmp_path, STOS_CERTS_CERTIFICATE_LIFE_S="8")
    tasks: list[asyncio.Task[None]] = []
    buses: list[Bus] = []
    try:
        await asyncio.to_thread(certs.start)
        await asyncio.to_thread(certs.nats.start)
        node, user = await certs.enrolled("node", "n1"), await certs.enrolled("user", "admin")
        buses = [await certs.bus(node), await certs.bus(user)]
        await settled(certs)
        first = (node.certificate, user.certificate, shown_serial(certs, user))

        async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
            await asyncio.sleep(0.05)
            return Empty()

        await buses[0].serve(subjects.node("n1", "describe"), DescribeReplica, describe)
        tasks = [
            asyncio.create_task(keep_renewed(identity, bus)) for identity, bus in zip((node, user), buses, strict=True)
        ]
        loop = asyncio.get_running_loop()
        end, asked = loop.time() + 20, 0
        while loop.time() < end:
            await buses[1].request(subjects.node("n1", "describe"), DescribeReplica(volume=VOLUME), Empty)
            asked += 1
        assert asked > 100
        assert node.certificate != first[0]
        assert user.certificate != first[1]
        assert shown_serial(certs, user) != first[2]
        late = await certs.enrolled("node", "late")  # the enrolment door shows a valid certificate too
        assert late.name == "late"
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for bus in buses:
            await bus.close()
        certs.stop()


async def test_who_does_not_renew_is_told_loudly(tmp_path: Path) -> None:
    """Long before its certificate ends, and by certs, which it does not ask."""
    certs = CertsProcess(tmp_path, STOS_CERTS_CERTIFICATE_LIFE_S="20")
    try:
        await asyncio.to_thread(certs.start)
        await asyncio.to_thread(certs.nats.start)
        await certs.enrolled("node", "forgotten")
        admin = await certs.enrolled("user", "admin")
        async with living(admin, certs.nats_urls) as bus:
            event = await told(bus, lambda event: event.action == "certs.overdue", 60)
            assert (event.target, event.outcome) == ("node/forgotten", "failed")
            assert "did not renew its certificate, which ends in" in event.reason
            page = await bus.request(subjects.certs("ls"), ListIdentities(), IdentityPage)
            states = {f"{one.kind}/{one.name}": one.state for one in page.identities}
            assert states["node/forgotten"] in ("overdue", "expired")
            assert states["user/admin"] == states["svc/certs"] == "valid"
    finally:
        certs.stop()


async def test_an_expired_credential_ends_the_connection(tmp_path: Path) -> None:
    """What renewal protects from: the server itself ends the connection of an expired identity."""
    certs = CertsProcess(tmp_path, STOS_CERTS_CERTIFICATE_LIFE_S="4")
    try:
        await asyncio.to_thread(certs.start)
        await asyncio.to_thread(certs.nats.start)
        bus = await certs.bus(await certs.enrolled("user", "admin"))
        async with asyncio.timeout(10):
            while bus.connected:
                await asyncio.sleep(0.1)
        assert not await bus.wait_connected(1.0)
        await bus.close()
    finally:
        certs.stop()
